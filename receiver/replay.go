package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

const (
	// maxReplayEvents is how many event ids one replay may name.
	maxReplayEvents = 10_000
	// replayTime bounds one replay; it goes on when its client has gone.
	replayTime = 10 * time.Minute
	// replayBytes is about how much is stored at a time: live webhooks find room beside it.
	replayBytes = 4 << 20
)

// Which events a replay takes.
const (
	replayDropped   = "dropped"
	replayDelivered = "delivered"
	replayAll       = "all"
)

// replayBody is what a replay is asked for with.
type replayBody struct {
	EventIDs []string `json:"event_ids"`
	Endpoint string   `json:"endpoint"`
	Since    string   `json:"since"`
	Until    string   `json:"until"`
	Outcome  string   `json:"outcome"`
}

// replayAnswer is what became of it.
type replayAnswer struct {
	Replayed int `json:"replayed"`
	// NotHeld are the event ids that were asked for and are not in the store any more.
	NotHeld []string `json:"not_held,omitempty"`
	Note    string   `json:"note,omitempty"`
}

// replayRequest is a valid body.
type replayRequest struct {
	ids          map[string]bool // nil for all; those found are set to true
	endpoint     string
	since, until time.Time
	outcome      string
}

func (a *admin) replay(q *http.Request) (int, any, error) {
	body, err := io.ReadAll(io.LimitReader(q.Body, maxAdminBody+1))
	if err != nil || len(body) > maxAdminBody {
		return 0, nil, &problem{Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", Detail: "the body is larger than " + strconv.Itoa(maxAdminBody) + " bytes"}
	}
	var asked replayBody
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&asked); err != nil {
		return 0, nil, &problem{Status: http.StatusBadRequest, Code: "invalid_body", Detail: "send a JSON object with event_ids, or with endpoint and since"}
	}
	request, err := asked.parse()
	if err != nil {
		return 0, nil, err
	}
	if _, _, ok := a.receiver.findTarget(request.endpoint); request.endpoint != "" && !ok {
		return 0, nil, &problem{Status: http.StatusNotFound, Code: "endpoint_not_found", Detail: "there is no such target; /v1/targets lists them"}
	}
	if !a.receiver.replaying.TryLock() {
		return 0, nil, &problem{Status: http.StatusServiceUnavailable, Code: "replay_running", Detail: "another replay is under way; try again when it has ended"}
	}
	defer a.receiver.replaying.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), replayTime)
	defer cancel()
	answer, err := a.receiver.replay(ctx, request)
	if err != nil {
		return 0, nil, err
	}
	a.receiver.cfg.Log.Info().Str("target", request.endpoint).Int("events", answer.Replayed).Msg("events replayed on request")
	return http.StatusAccepted, answer, nil
}

func (b *replayBody) parse() (r replayRequest, err error) {
	r = replayRequest{endpoint: b.Endpoint, outcome: b.Outcome}
	if err := checkTarget(b.Endpoint); err != nil {
		return r, err
	}
	if r.since, err = timeOf("since", b.Since); err != nil {
		return r, err
	}
	if r.until, err = timeOf("until", b.Until); err != nil {
		return r, err
	}
	now := time.Now()
	if r.until.IsZero() || r.until.After(now) {
		r.until = now // the copies of the replay itself come later
	}
	switch b.Outcome {
	case replayDropped, replayDelivered, replayAll:
	case "":
		if r.outcome = replayDropped; b.EventIDs != nil {
			r.outcome = replayAll
		}
	default:
		return r, invalidMember("invalid_outcome", "outcome", "must be dropped, delivered or all")
	}
	switch {
	case b.EventIDs != nil && (b.Since != "" || b.Until != ""):
		return r, invalidMember("invalid_replay", "event_ids", "goes with endpoint and outcome alone, not with since or until")
	case b.EventIDs != nil && (len(b.EventIDs) == 0 || len(b.EventIDs) > maxReplayEvents):
		return r, invalidMember("invalid_event_ids", "event_ids", "must be 1 to "+strconv.Itoa(maxReplayEvents)+" event ids; beyond that replay by endpoint and since")
	case b.EventIDs == nil && b.Endpoint == "" && b.Since == "":
		return r, invalidMember("invalid_replay", "", "say what to replay: event_ids, or an endpoint, or since when")
	case b.EventIDs != nil:
		r.ids = make(map[string]bool, len(b.EventIDs))
		for _, id := range b.EventIDs {
			if err := checkEventID(id); err != nil {
				return r, err
			}
			r.ids[id] = false
		}
	}
	return r, nil
}

// wants reports whether the event is one of those that were named.
func (q *replayRequest) wants(eventID string) bool {
	if q.ids == nil {
		return true
	}
	_, ok := q.ids[eventID]
	return ok
}

// replay stores copies of the wanted events at the end of their source's journal, each for one target.
func (r *Receiver) replay(ctx context.Context, q replayRequest) (replayAnswer, error) {
	x := replayer{receiver: r, replayRequest: q, dropped: make(map[fingerprint]struct{})}
	if err := x.letters(ctx); err != nil {
		return x.answer, err
	}
	if q.outcome != replayDropped {
		for _, s := range r.sources {
			if err := x.journal(ctx, s); err != nil {
				return x.answer, err
			}
		}
		if q.ids == nil {
			x.answer.Note = "Delivered events are held for the receiver's --retention, and not beyond half of --max-bytes: what has gone before is not counted."
		}
	}
	for id, found := range q.ids {
		if !found {
			x.answer.NotHeld = append(x.answer.NotHeld, id)
		}
	}
	return x.answer, nil
}

// replayer is one replay under way.
type replayer struct {
	receiver *Receiver
	replayRequest
	dropped map[fingerprint]struct{} // targets with event ids that are among the dead letters
	copies  []*Request               // of one source, to be stored
	bytes   int                      // of their bodies
	answer  replayAnswer
}

// letters takes what was dropped.
func (x *replayer) letters(ctx context.Context) error {
	first, end, err := x.receiver.letterBounds(ctx)
	if err != nil {
		return err
	}
	filter := letterFilter{endpoint: x.endpoint, since: x.since, until: x.until}
	if x.ids != nil {
		filter.until = time.Time{}
	}
	var last *source
	err = x.receiver.readLetters(ctx, filter.subject(), first, end, func(l *letter) (bool, error) {
		id := l.header(staffetta.HeaderEventID)
		if !filter.wants(l) || !x.wants(id) || x.wasDropped(l.endpoint(), id) {
			return false, nil
		}
		s, _, ok := x.receiver.findTarget(l.endpoint())
		if !ok {
			return false, nil // a target that is no longer configured
		}
		x.dropped[fingerprintOf(l.endpoint()+" "+id)] = struct{}{}
		if x.outcome == replayDelivered {
			return false, nil
		}
		request, err := parseRequest(l.data)
		if err != nil {
			return false, err
		}
		if last != nil && last != s {
			if err := x.flush(ctx, last); err != nil {
				return false, err
			}
		}
		last = s
		return false, x.copy(ctx, s, request, l.target)
	})
	if err != nil || last == nil {
		return err
	}
	return x.flush(ctx, last)
}

// journal takes what was delivered and is still held.
func (x *replayer) journal(ctx context.Context, s *source) error {
	var targets []*feed
	upTo := uint64(0)
	for _, f := range s.feeds {
		if x.endpoint == "" || f.id() == x.endpoint {
			targets = append(targets, f)
			upTo = max(upTo, f.feed.State().Done)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	err := readRange(ctx, x.receiver.records, staffetta.JournalStream, s.journal.subject, 1, upTo+1, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (bool, error) {
		if !meta.Timestamp.Before(x.until) {
			return true, nil
		}
		if meta.Timestamp.Before(x.since) {
			return false, nil
		}
		return false, eachRequest(m.Data(), func(stored []byte) error {
			request, err := parseRequest(stored)
			if err != nil || request.Replay || !x.wants(request.EventID) {
				return err
			}
			for _, f := range targets {
				if meta.Sequence.Stream <= f.feed.State().Done && !x.wasDropped(f.id(), request.EventID) {
					if err := x.copy(ctx, s, request, f.target); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("replay source %s: %w", s.name, err)
	}
	return x.flush(ctx, s)
}

// copy adds a request for one target.
func (x *replayer) copy(ctx context.Context, s *source, request *Request, target string) error {
	if x.ids != nil {
		x.ids[request.EventID] = true
	}
	again := *request
	again.Replay, again.Target = true, target
	again.Body = bytes.Clone(request.Body)
	x.copies = append(x.copies, &again)
	x.bytes += len(again.Body)
	if len(x.copies) < blockRequests && x.bytes < replayBytes {
		return nil
	}
	return x.flush(ctx, s)
}

// flush stores the copies.
func (x *replayer) flush(ctx context.Context, s *source) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.journal.append(x.copies); err != nil {
		return err
	}
	x.answer.Replayed += len(x.copies)
	clear(x.copies)
	x.copies, x.bytes = x.copies[:0], 0
	return nil
}

func (x *replayer) wasDropped(target, eventID string) bool {
	_, ok := x.dropped[fingerprintOf(target+" "+eventID)]
	return ok
}
