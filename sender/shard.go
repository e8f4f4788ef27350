package sender

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// shard is one stream of events with the lanes that live in it.
type shard struct {
	d      *Dispatcher
	n      int
	stream string
	prefix string // of the subjects of its events
	inbox  string // of its requests; "." and a consumer's name follow

	mu    sync.RWMutex
	lanes map[string]*lane

	highest atomic.Uint64 // highest sequence known to be in the stream
	record  record
	marks   []mark // see janitor.go; only housekeep touches it
}

func newShard(d *Dispatcher, n int) *shard {
	return &shard{
		d: d, n: n,
		stream: staffetta.EventStream(n),
		prefix: staffetta.EventSubject(n, ""),
		inbox:  nats.NewInbox(),
		lanes:  make(map[string]*lane),
		record: newRecord(),
	}
}

func (s *shard) lane(key string) *lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lanes[key]
}

// all lists the lanes of the moment.
func (s *shard) all() []*lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	lanes := make([]*lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		lanes = append(lanes, l)
	}
	return lanes
}

// ensure gives the lane of key. A new one starts behind what the stream has by now: its events are
// still to come.
func (s *shard) ensure(key string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[key]
	if l == nil {
		l = &lane{key: key, subject: s.prefix + key, shard: s, settled: s.highest.Load()}
		l.tail = l.settled
		s.lanes[key] = l
	}
	return l
}

func (s *shard) remove(key string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[key]
	delete(s.lanes, key)
	return l
}

// sawSequence raises the highest known sequence.
func (s *shard) sawSequence(sequence uint64) {
	for {
		old := s.highest.Load()
		if sequence <= old || s.highest.CompareAndSwap(old, sequence) {
			return
		}
	}
}

// subscribe takes what the consumers of this shard send.
func (s *shard) subscribe() (*nats.Subscription, error) {
	sub, err := s.d.cfg.Conn.Subscribe(s.inbox+".*", s.receive)
	if err != nil {
		return nil, err
	}
	// The windows bound what is under way; the client must not drop any of it.
	return sub, sub.SetPendingLimits(-1, -1)
}

// receive hands an event or a status to its lane.
func (s *shard) receive(m *nats.Msg) {
	if key, ok := strings.CutPrefix(m.Subject, s.prefix); ok {
		if p, ok := placeOf(m.Reply); ok {
			if l := s.lane(key); l != nil {
				l.arrived(m, p)
			}
		}
		return
	}
	consumer := m.Subject[len(s.inbox)+1:]
	if end := strings.LastIndexByte(consumer, '-'); end > 0 {
		if l := s.lane(consumer[:end]); l != nil {
			l.told(consumer, statusFrom(m))
		}
	}
}

// load reads the cursors, and for every lane whether the stream has something behind its cursor.
func (s *shard) load(ctx context.Context) error {
	stream, err := s.d.cfg.JetStream.Stream(ctx, s.stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", s.stream, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(s.prefix+"*"))
	if err != nil {
		return fmt.Errorf("read state of %s: %w", s.stream, err)
	}
	s.sawSequence(info.State.LastSeq)
	cursors, err := s.readCursors(ctx)
	if err != nil {
		return err
	}
	for _, l := range s.all() {
		c := cursors[l.key]
		if c.settled > info.State.LastSeq {
			s.d.cfg.Log.Error().Str("stream", s.stream).Str("lane", l.key).Uint64("cursor", c.settled).
				Uint64("last", info.State.LastSeq).Msg("the store lost events that were delivered already; going on at its end")
			c.settled = info.State.LastSeq
		}
		var tail uint64
		if count := info.State.Subjects[l.subject]; count > 0 {
			last, err := stream.GetLastMsgForSubject(ctx, l.subject)
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
				return fmt.Errorf("find the last event of %s: %w", l.key, err)
			}
			if err == nil {
				tail = last.Sequence
			}
		}
		l.load(c, tail)
	}
	return nil
}

// load puts the lane where its cursor says.
func (l *lane) load(c cursor, tail uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled = c.settled
	l.tail = max(tail, c.settled)
	if l.tail == l.settled {
		return
	}
	l.backlog, l.bytes, l.estimated = max(c.backlog, 1), c.bytes, true
	l.failed, l.due = c.failed, c.due
	if l.mode == Discarding {
		l.discard()
	}
}

// wakeAll starts every lane that has something to do and arms the timers of those that wait.
func (s *shard) wakeAll() {
	for _, l := range s.all() {
		l.mu.Lock()
		if left := time.Until(l.due); left > 0 && l.mode == Open {
			l.arm(left)
		}
		start := l.tryActivate()
		l.mu.Unlock()
		l.startIf(start)
	}
}

// placeOf reads the reply subject of an event:
// $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<count>.<nanoseconds>.<pending>, with
// <domain>.<account> after ACK, and perhaps a token more at the end, where a cluster has domains.
func placeOf(reply string) (place, bool) {
	const prefix = "$JS.ACK."
	if !strings.HasPrefix(reply, prefix) {
		return place{}, false
	}
	rest := reply[len(prefix):]
	if strings.Count(rest, ".") >= 8 {
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
	}
	_, rest, _ = strings.Cut(rest, ".") // stream
	consumer, rest, _ := strings.Cut(rest, ".")
	_, rest, _ = strings.Cut(rest, ".") // delivered
	sequence, rest, ok1 := cutNumber(rest)
	count, rest, ok2 := cutNumber(rest)
	nanos, _, ok3 := cutNumber(rest)
	return place{consumer, sequence, count, time.Unix(0, int64(nanos))}, ok1 && ok2 && ok3
}

// cutNumber reads the decimal number before the next dot.
func cutNumber(s string) (n uint64, rest string, ok bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			return n, s[i+1:], i > 0
		case c < '0' || c > '9' || i > 18:
			return 0, "", false
		default:
			n = n*10 + uint64(c-'0')
		}
	}
	return n, "", s != ""
}

// status is what the server says in place of events.
type status uint8

const (
	statusComplete     status = iota // the request brought all it asked for
	statusRequestEnded               // the request ended before that
	statusTooLarge                   // the next event does not fit the request's bytes
	statusConsumerLost               // the consumer is gone, or the server is
)

func statusFrom(m *nats.Msg) status {
	switch firstHeader(m, "Status") {
	case "404", "408":
		return statusRequestEnded
	case "409":
		switch description := firstHeader(m, "Description"); {
		case strings.Contains(description, "Batch Completed"):
			return statusComplete
		case strings.Contains(description, "MaxBytes"):
			return statusTooLarge
		}
	}
	return statusConsumerLost
}
