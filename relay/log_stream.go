package relay

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// followKeepAlive is how often a stream without news shows that it lives; it is also when a
	// client that has gone is noticed, and a key that was revoked.
	followKeepAlive = 15 * time.Second
	eventStream     = "text/event-stream"
)

// follow streams attempts as server-sent events from now on, or from behind the Last-Event-ID that a
// client gives when it comes back.
func (s *attemptScope) follow(r *http.Request) (answer, error) {
	query, err := queryOf(r, attemptParameters...)
	if err != nil {
		return answer{}, err
	}
	filter, err := s.filterOf(query)
	if err != nil {
		return answer{}, err
	}
	var after *LogPosition
	if text := r.Header.Get("Last-Event-ID"); text != "" {
		position, ok := ParseLogPosition(text)
		if !ok {
			return answer{}, bodyError("invalid_last_event_id", "Last-Event-ID", "is not the id of an attempt")
		}
		after = &position
	}
	ctx, cancel := context.WithCancel(r.Context())
	news, err := s.log.Follow(ctx, filter)
	if err != nil {
		cancel()
		if errors.Is(err, errFollowers) {
			p := problemUnavailable()
			p.Code, p.Detail, p.RetryAfter = "too_many_followers", "too many follow the log already; end one of them first", 5
			return answer{}, p
		}
		return answer{}, err
	}
	return answer{status: http.StatusOK, stream: func(w http.ResponseWriter) {
		defer cancel()
		f := &followStream{w: w, extend: extendWrites(w, r), ended: s.stopping, permitted: s.permitted}
		if f.begin() == nil && f.catchUp(ctx, s.log, filter, after) == nil {
			f.run(news)
		}
	}}, nil
}

// followStream is one client that follows.
type followStream struct {
	w         http.ResponseWriter
	ended     <-chan struct{} // the server stops
	extend    func() error
	permitted func() bool
	last      LogPosition // of what was sent
	text      []byte
}

func (s *followStream) begin() error {
	h := s.w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy before the relay must pass lines on
	s.w.WriteHeader(http.StatusOK)
	s.text = append(s.text[:0], ": following\n\n"...)
	return s.send()
}

// send writes what text holds. A client that does not read for half a minute ends the stream.
func (s *followStream) send() error {
	if err := s.extend(); err != nil {
		return err
	}
	if _, err := s.w.Write(s.text); err != nil {
		return errors.Join(errGone, err)
	}
	if flusher, ok := s.w.(http.Flusher); ok {
		flusher.Flush()
	}
	s.text = s.text[:0]
	return nil
}

// catchUp sends what came behind the last attempt that the client has, up to a page; of more it says
// that something is missing.
func (s *followStream) catchUp(ctx context.Context, log *AttemptLog, f AttemptFilter, after *LogPosition) error {
	if after == nil {
		return nil
	}
	page, err := log.Query(ctx, f, nil, maxPage)
	if err != nil {
		return err
	}
	n := 0
	for n < len(page.Attempts) && after.Before(page.Attempts[n].Position) {
		n++
	}
	if n == len(page.Attempts) && page.Next != nil {
		s.appendLagged(0)
	}
	for n--; n >= 0; n-- {
		if err := s.append(&page.Attempts[n]); err != nil {
			return err
		}
	}
	return s.send()
}

func (s *followStream) append(a *LoggedAttempt) error {
	if !s.last.Before(a.Position) && s.last != (LogPosition{}) {
		return nil // sent while catching up
	}
	s.last = a.Position
	shown := newAttemptAnswer(a)
	data, err := json.Marshal(&shown, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		return err
	}
	s.text = append(append(s.text, "id: "...), shown.ID...)
	s.text = append(append(s.text, "\nevent: attempt\ndata: "...), data...)
	s.text = append(s.text, "\n\n"...)
	return nil
}

// appendLagged says how many attempts the client missed; 0 where nobody counted them.
func (s *followStream) appendLagged(n uint64) {
	s.text = append(s.text, `event: lagged`+"\n"+`data: {"missed":`...)
	if n == 0 {
		s.text = append(s.text, "null"...)
	} else {
		s.text = strconv.AppendUint(s.text, n, 10)
	}
	s.text = append(s.text, "}\n\n"...)
}

// run sends news until the client, its key, the log or the server ends.
func (s *followStream) run(news <-chan FollowedAttempt) {
	alive := time.NewTicker(followKeepAlive)
	defer alive.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-alive.C:
			if !s.permitted() {
				return
			}
			s.text = append(s.text, ": alive\n\n"...)
		case a, open := <-news:
			if !open || s.take(&a, news) != nil {
				return
			}
		}
		if s.send() != nil {
			return
		}
	}
}

// take appends an attempt and those that wait behind it.
func (s *followStream) take(a *FollowedAttempt, news <-chan FollowedAttempt) error {
	for {
		if a.Lagged > 0 {
			s.appendLagged(a.Lagged)
		}
		if err := s.append(&a.LoggedAttempt); err != nil {
			return err
		}
		select {
		case next, open := <-news:
			if !open {
				return s.send()
			}
			a = &next
		default:
			return nil
		}
	}
}
