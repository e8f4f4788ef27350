package relay

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// idempotencyAge is how long the key of an accepted event is remembered.
	idempotencyAge = 24 * time.Hour
	// idempotencyInterval is how long an accepted key may be off the record; what a kill takes
	// from it is found again in the events themselves.
	idempotencyInterval = 250 * time.Millisecond
	// idempotencyHeartbeat is how often the record is written without a key, so that a start need not
	// look far back through the events.
	idempotencyHeartbeat = 10 * time.Second
	// idempotencySlack is how much earlier than the record says a start begins to look: the clock may
	// have been set back a little.
	idempotencySlack = time.Second
	// idempotencyRecord bounds the keys of one record message.
	idempotencyRecord = 8192
	// recordBytes bounds a record of found events, but for the last of them.
	recordBytes      = 512 << 10
	idempotencyParts = 64
)

// fingerprint stands for a key within a workspace: the first half of a SHA-256.
type fingerprint [16]byte

// The kinds of key: an Idempotency-Key and an event_id of the same text are not the same key.
const (
	keyOfRequest = 'k'
	keyOfEvent   = 'e'
)

func fingerprintOf[T ~string | ~[]byte](workspace string, kind byte, key T) fingerprint {
	var buffer [256]byte
	b := append(buffer[:0], workspace...)
	b = append(b, 0, kind)
	b = append(b, key...)
	sum := sha256.Sum256(b)
	return fingerprint(sum[:16])
}

// text is the fingerprint as a header's value.
func (f fingerprint) text() string { return base64.RawURLEncoding.EncodeToString(f[:]) }

func parseFingerprint(s string) (f fingerprint, ok bool) {
	n, err := base64.RawURLEncoding.Decode(f[:], []byte(s))
	return f, err == nil && n == len(f) && len(s) == 22
}

// idempotency remembers the keys of accepted events for a day, across restarts: in memory, and in
// batches in a stream of its own. It is bounded by a number of keys; beyond it the oldest go first.
type idempotency struct {
	js    jetstream.JetStream
	reads *nats.Conn // for reading events
	log   zerolog.Logger
	parts [idempotencyParts]keys

	mu      sync.Mutex
	pending []acceptedKey // accepted and not on record yet

	// unrecorded says that there are found events that are not on record yet.
	unrecorded atomic.Bool
	// since is what the last record says: the key of every event that was stored before it, and whose
	// request has ended, is on record. Only write has it.
	since time.Time
	full  chan struct{} // pending has reached a record's size
}

// keys is one part of all keys, so that producers do not wait for one lock.
type keys struct {
	mu       sync.Mutex
	bound    int
	accepted map[fingerprint]uint32 // the second since 1970
	ids      map[fingerprint]string // the event's id where the relay made it
	claimed  map[fingerprint]claimedKey
	found    map[fingerprint]*foundEvent
}

// claimedKey is a key that a request works on.
type claimedKey struct {
	at   time.Time     // before its event is stored
	busy chan struct{} // nil as long as nobody waits
}

// acceptedKey is a key with the second it was accepted in, and the id of its event where the relay
// made that.
type acceptedKey struct {
	fingerprint
	unix    uint32
	eventID string
}

// foundEvent is an event that is stored for some of its endpoints, as far as is known: its request was
// cut off between two copies, or the store refused one. A repeat sends those that are missing.
type foundEvent struct {
	eventID   string
	endpoints map[string]bool
	at        time.Time // when it was found
	recorded  bool      // a later start need not find it again
}

// claim is the answer to a key.
type claim struct {
	// duplicate: the key was accepted before, as eventID (empty where the producer knows it).
	duplicate bool
	eventID   string
	// busy is closed when the request that works on the same key ends; nil otherwise.
	busy <-chan struct{}
	// found is what an interrupted request has stored already; nil for nothing.
	found *foundEvent
}

func newIdempotency(js jetstream.JetStream, reads *nats.Conn, bound int, log zerolog.Logger) *idempotency {
	x := &idempotency{js: js, reads: reads, log: log, full: make(chan struct{}, 1)}
	for i := range x.parts {
		x.parts[i] = keys{
			bound:    max(bound/idempotencyParts, 1),
			accepted: make(map[fingerprint]uint32),
			ids:      make(map[fingerprint]string),
			claimed:  make(map[fingerprint]claimedKey),
			found:    make(map[fingerprint]*foundEvent),
		}
	}
	return x
}

func (x *idempotency) part(f fingerprint) *keys { return &x.parts[f[0]%idempotencyParts] }

// claim takes the key for one request, which must accept or release it. Nothing is taken where the
// answer says duplicate or busy.
func (x *idempotency) claim(f fingerprint, now time.Time) claim {
	k := x.part(f)
	k.mu.Lock()
	defer k.mu.Unlock()
	if unix, ok := k.accepted[f]; ok && now.Unix()-int64(unix) < int64(idempotencyAge/time.Second) {
		return claim{duplicate: true, eventID: k.ids[f]}
	}
	if c, ok := k.claimed[f]; ok {
		if c.busy == nil {
			c.busy = make(chan struct{})
			k.claimed[f] = c
		}
		return claim{busy: c.busy}
	}
	k.claimed[f] = claimedKey{at: now}
	return claim{found: k.found[f]}
}

// accept remembers the key: its event is stored. eventID is given where the relay made it.
func (x *idempotency) accept(f fingerprint, eventID string, now time.Time) {
	key := acceptedKey{f, uint32(now.Unix()), eventID}
	x.mu.Lock() // before the claim ends, see oldestClaim
	x.pending = append(x.pending, key)
	full := len(x.pending) >= idempotencyRecord
	x.mu.Unlock()

	k := x.part(f)
	k.mu.Lock()
	if k.put(key) {
		x.log.Warn().Int("keys", k.bound*idempotencyParts).Msg("more idempotency keys than the bound: forgetting the oldest before their 24 hours")
	}
	delete(k.found, f)
	k.free(f)
	k.mu.Unlock()
	if full {
		select {
		case x.full <- struct{}{}:
		default:
		}
	}
}

// release gives the key back: its event was not accepted. endpoints are those that a copy was stored for
// all the same, under the event's id; a repeat sends the others.
func (x *idempotency) release(f fingerprint, eventID string, endpoints map[string]bool) {
	k := x.part(f)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(endpoints) > 0 {
		if before := k.found[f]; before != nil {
			maps.Copy(endpoints, before.endpoints)
		}
		if len(k.found) >= k.bound {
			k.forgetFound(time.Now().Add(-time.Minute)) // who wants to send it again does so soon
		}
		k.found[f] = &foundEvent{eventID: eventID, endpoints: endpoints, at: time.Now()}
		x.unrecorded.Store(true)
	}
	k.free(f)
}

func (k *keys) free(f fingerprint) {
	if c := k.claimed[f]; c.busy != nil {
		close(c.busy)
	}
	delete(k.claimed, f)
}

// put adds a key. Where the part is full it first forgets the older half of it, and says so.
func (k *keys) put(key acceptedKey) (forgot bool) {
	if len(k.accepted) >= k.bound {
		var sum int64
		for _, unix := range k.accepted {
			sum += int64(unix)
		}
		k.forget(sum/int64(len(k.accepted)) + 1)
		forgot = true
	}
	k.accepted[key.fingerprint] = key.unix
	if key.eventID != "" {
		k.ids[key.fingerprint] = key.eventID
	}
	return forgot
}

// forget drops the keys accepted before a second.
func (k *keys) forget(before int64) {
	for f, unix := range k.accepted {
		if int64(unix) < before {
			delete(k.accepted, f)
			delete(k.ids, f)
		}
	}
}

// forgetFound drops the found events that nobody has asked for since a time.
func (k *keys) forgetFound(before time.Time) {
	maps.DeleteFunc(k.found, func(_ fingerprint, e *foundEvent) bool { return e.at.Before(before) })
}

// run keeps the record until ctx ends, and then writes what is left of it.
func (x *idempotency) run(ctx context.Context) {
	write := time.NewTicker(idempotencyInterval)
	defer write.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	written := time.Time{}
	for {
		select {
		case <-ctx.Done():
			x.write(ctx)
			return
		case now := <-sweep.C:
			for i := range x.parts {
				k := &x.parts[i]
				k.mu.Lock()
				k.forget(now.Add(-idempotencyAge).Unix())
				k.forgetFound(now.Add(-idempotencyAge))
				k.mu.Unlock()
			}
		case <-x.full:
			x.write(ctx)
			written = time.Now()
		case now := <-write.C:
			x.mu.Lock()
			idle := len(x.pending) == 0 && !x.unrecorded.Load()
			x.mu.Unlock()
			if !idle || now.Sub(written) >= idempotencyHeartbeat {
				x.write(ctx)
				written = now
			}
		}
	}
}

// write puts all pending keys and found events on record, whether ctx has ended or not; what cannot be
// written stays pending.
func (x *idempotency) write(ctx context.Context) {
	since := x.oldestClaim() // whose request has ended before is pending or found by now
	if err := x.recordFound(ctx); err != nil {
		x.log.Error().Err(err).Msg("cannot record events that are stored in part; trying again")
		return
	}
	x.mu.Lock()
	left := len(x.pending)
	x.mu.Unlock()
	for {
		x.mu.Lock()
		batch := x.pending[:min(left, idempotencyRecord)]
		x.mu.Unlock()
		if left -= len(batch); left == 0 {
			x.since = since
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		_, err := x.js.Publish(bounded, staffetta.IdempotencySubject, appendKeys(nil, x.since, batch))
		cancel()
		if err != nil {
			x.log.Error().Err(err).Msg("cannot record idempotency keys; trying again")
			return
		}
		x.mu.Lock()
		x.pending = append([]acceptedKey(nil), x.pending[len(batch):]...)
		x.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

// oldestClaim is when the oldest key that a request works on was claimed; now where there is none.
func (x *idempotency) oldestClaim() time.Time {
	oldest := time.Now()
	for i := range x.parts {
		k := &x.parts[i]
		k.mu.Lock()
		for _, c := range k.claimed {
			if c.at.Before(oldest) {
				oldest = c.at
			}
		}
		k.mu.Unlock()
	}
	return oldest
}

// load reads the record, then the events that were stored too late to be on it.
func (x *idempotency) load(ctx context.Context, shards int) error {
	oldest := time.Now().Add(-idempotencyAge)
	at := oldest
	x.since = oldest
	err := readStream(ctx, x.js, staffetta.IdempotencyStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &oldest,
	}, func(m jetstream.Msg) error {
		if meta, err := m.Metadata(); err == nil {
			at = meta.Timestamp
		}
		return parseRecord(m.Data(), func(since time.Time) { x.since = since }, func(k acceptedKey) {
			part := x.part(k.fingerprint)
			part.put(k)
			delete(part.found, k.fingerprint)
		}, func(f fingerprint, e *foundEvent) {
			e.at = at
			x.part(f).found[f] = e
		})
	})
	if err != nil {
		return fmt.Errorf("load idempotency keys: %w", err)
	}
	since := x.since.Add(-idempotencySlack)
	var wg sync.WaitGroup
	errs := make([]error, shards)
	slots := make(chan struct{}, 8)
	for n := range shards {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[n] = x.lookThrough(ctx, n, since)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("look for events without a recorded key: %w", err)
	}
	return x.recordFound(ctx)
}

// recordFound writes until every found event is on record.
func (x *idempotency) recordFound(ctx context.Context) error {
	for {
		if err := x.writeFound(ctx); err != nil || !x.unrecorded.Load() {
			return err
		}
	}
}

// writeFound puts the found events on record: a later start begins to look behind it, and their
// copies may be gone by then.
func (x *idempotency) writeFound(ctx context.Context) error {
	x.unrecorded.Store(false)
	for i := range x.parts {
		k := &x.parts[i]
		k.mu.Lock()
		record := []byte{recordOfFound}
		var written []*foundEvent
		for f, e := range k.found {
			if !e.recorded && len(record) < recordBytes {
				record = appendFound(record, f, e)
				written = append(written, e)
			}
		}
		k.mu.Unlock()
		if len(written) == 0 {
			continue
		}
		if len(record) >= recordBytes { // there may be more
			x.unrecorded.Store(true)
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		_, err := x.js.Publish(bounded, staffetta.IdempotencySubject, record)
		cancel()
		if err != nil {
			x.unrecorded.Store(true)
			return fmt.Errorf("record events that are stored in part: %w", err)
		}
		k.mu.Lock()
		for _, e := range written {
			e.recorded = true
		}
		k.mu.Unlock()
	}
	return nil
}

// lookThrough notes the events of a shard that were stored since a time and whose keys may not be on
// record. What one request brings is bounded in bytes: a few large events for many endpoints are more than
// a connection may have under way.
func (x *idempotency) lookThrough(ctx context.Context, shard int, since time.Time) error {
	events := eventShelf(x.reads, shard)
	from, err := events.firstSince(ctx, since)
	if err != nil || from == 0 {
		return err
	}
	return events.each(ctx, staffetta.EventSubjects(shard), from, ^uint64(0), 0, func(m *shelved) error {
		x.foundStored(m)
		return nil
	})
}

// foundStored notes a copy of an event whose key may not be on record.
func (x *idempotency) foundStored(m *shelved) {
	f, ok := parseFingerprint(m.key)
	if !ok {
		return
	}
	k := x.part(f)
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.accepted[f]; ok {
		return
	}
	e := k.found[f]
	if e == nil {
		e = &foundEvent{endpoints: make(map[string]bool)}
		k.found[f] = e
	}
	e.recorded, e.at = false, time.Now()
	e.eventID = m.eventID
	e.endpoints[endpointOfSubject(m.subject)] = true
}

// readBatch bounds what a request to the store brings: a record has less than 1 MiB, and a connection may
// have 256 MiB under way.
const readBatch = 100

// readStream calls f for every message of a stream that cfg selects and that is there by now.
func readStream(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig, f func(jetstream.Msg) error) error {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.Replicas = jetstream.AckNonePolicy, true, 1
	cfg.InactiveThreshold = time.Minute
	consumer, err := js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return fmt.Errorf("create consumer on %s: %w", stream, err)
	}
	defer func() { _ = js.DeleteConsumer(context.WithoutCancel(ctx), stream, consumer.CachedInfo().Name) }()
	for left := consumer.CachedInfo().NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, readBatch)), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			if err := f(m); err != nil {
				return fmt.Errorf("read %s: %w", stream, err)
			}
		}
		if got == 0 {
			return errors.Join(fmt.Errorf("read %s: %d messages are missing", stream, left), batch.Error())
		}
		left -= min(got, left)
	}
	return nil
}
