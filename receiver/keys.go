package receiver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// keyAge is how long a repeat is told from a new event.
	keyAge = 24 * time.Hour
	// keyInterval is how long a stored event's key may be off the record; a start finds those that a kill
	// took from it in the journal.
	keyInterval = 250 * time.Millisecond
	// keysOfRecord bounds the keys of one record message, keyFormat is its first byte.
	keysOfRecord = 8192
	keyFormat    = 1
)

// fingerprint stands for an event's id within its source: the first half of a SHA-256.
type fingerprint [16]byte

func fingerprintOf[T string | []byte](eventID T) fingerprint {
	var buffer [256]byte
	sum := sha256.Sum256(append(buffer[:0], eventID...))
	return fingerprint(sum[:16])
}

// keys are the fingerprints of a source's events, each with the second in which it was stored. The
// journal's lock guards them.
type keys struct {
	bound    int
	stored   map[fingerprint]uint32
	underWay map[fingerprint]*block
	pending  []storedKey // stored, and not on record yet
	log      zerolog.Logger
}

type storedKey struct {
	fingerprint
	unix uint32
	// sequence is that of the block.
	sequence uint64
}

func newKeys(bound int, log zerolog.Logger) keys {
	return keys{bound: max(bound, 1), stored: make(map[fingerprint]uint32), underWay: make(map[fingerprint]*block), log: log}
}

// known says that the event was stored within a day.
func (k *keys) known(f fingerprint, now time.Time) bool {
	unix, ok := k.stored[f]
	return ok && now.Unix()-int64(unix) < int64(keyAge/time.Second)
}

// put remembers a stored event's key. Beyond the bound the older half is forgotten, and that is said.
func (k *keys) put(key storedKey) {
	if len(k.stored) >= k.bound {
		var sum int64
		for _, unix := range k.stored {
			sum += int64(unix)
		}
		k.forget(sum/int64(len(k.stored)) + 1)
		k.log.Warn().Int("keys", k.bound).Msg("more events within 24 hours than keys are remembered; forgetting the oldest: their repeats would be stored")
	}
	k.stored[key.fingerprint] = key.unix
}

// forget drops the keys from before a second.
func (k *keys) forget(before int64) {
	for f, unix := range k.stored {
		if int64(unix) < before {
			delete(k.stored, f)
		}
	}
}

// appendKeyRecord writes a record: format, the sequence up to which all blocks of the source are on
// record, and the keys with their seconds.
func appendKeyRecord(dst []byte, covered uint64, batch []storedKey) []byte {
	dst = binary.AppendUvarint(append(dst, keyFormat), covered)
	for _, k := range batch {
		dst = append(dst, k.fingerprint[:]...)
		dst = binary.LittleEndian.AppendUint32(dst, k.unix)
	}
	return dst
}

var errKeyRecord = errors.New("a record of event keys is damaged or of a newer version")

// parseKeyRecord reads what appendKeyRecord wrote.
func parseKeyRecord(b []byte, key func(storedKey)) (covered uint64, err error) {
	if len(b) == 0 || b[0] != keyFormat {
		return 0, errKeyRecord
	}
	rd := staffetta.BinaryReader{Rest: b[1:]}
	covered = rd.Uvarint()
	const size = len(fingerprint{}) + 4
	if rd.Failed || len(rd.Rest)%size != 0 {
		return 0, errKeyRecord
	}
	for rest := rd.Rest; len(rest) > 0; rest = rest[size:] {
		key(storedKey{fingerprint: fingerprint(rest[:16]), unix: binary.LittleEndian.Uint32(rest[16:])})
	}
	return covered, nil
}

// loadKeys reads the record of a day, then the blocks that were stored too late to be on it.
func (j *journal) loadKeys(ctx context.Context) error {
	since := time.Now().Add(-keyAge)
	j.mu.Lock()
	defer j.mu.Unlock()
	err := readAll(ctx, j.records, staffetta.IdempotencyStream, jetstream.ConsumerConfig{
		FilterSubject: staffetta.JournalKeySubject(j.source), DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
	}, func(m jetstream.Msg) error {
		covered, err := parseKeyRecord(m.Data(), j.keys.put)
		j.covered.Store(max(j.covered.Load(), covered))
		j.passOver(err)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load the keys of source %s: %w", j.source, err)
	}
	last := j.covered.Load()
	err = readAll(ctx, j.records, staffetta.JournalStream, jetstream.ConsumerConfig{
		FilterSubject: staffetta.JournalSubject(j.source), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1,
	}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		last = meta.Sequence.Stream
		j.passOver(eachRequest(m.Data(), func(stored []byte) error {
			id, err := identify(stored)
			if err == nil && !id.replay {
				key := storedKey{fingerprintOf(id.eventID), uint32(meta.Timestamp.Unix()), last}
				j.keys.put(key)
				j.keys.pending = append(j.keys.pending, key)
			}
			return err
		}))
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for events of source %s whose key is not on record: %w", j.source, err)
	}
	return nil
}

// passOver logs what cannot be read of the keys: repeats of those events would be taken for new ones.
func (j *journal) passOver(err error) {
	if err != nil {
		j.log.Error().Err(err).Str("source", j.source).Msg("some keys cannot be read; repeats of their events would be stored")
	}
}

// keepKeys records the keys of stored events until ctx ends, and then those that are left.
func (j *journal) keepKeys(ctx context.Context) {
	write := time.NewTicker(keyInterval)
	defer write.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			j.writeKeys(ctx)
			return
		case now := <-sweep.C:
			j.mu.Lock()
			j.keys.forget(now.Add(-keyAge).Unix())
			j.mu.Unlock()
		case <-write.C:
			j.writeKeys(ctx)
		}
	}
}

// writeKeys records all pending keys, whether ctx has ended or not; what cannot be recorded stays
// pending.
func (j *journal) writeKeys(ctx context.Context) {
	for {
		j.mu.Lock()
		batch := j.keys.pending[:min(len(j.keys.pending), keysOfRecord)]
		more := len(j.keys.pending) > len(batch)
		last := j.last.Load() // the keys of blocks up to it are pending, or on record
		j.mu.Unlock()
		if len(batch) == 0 {
			j.covered.Store(max(j.covered.Load(), last))
			return
		}
		covered := batch[len(batch)-1].sequence
		if more { // the last block's other keys may be in the next record
			covered--
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		_, err := j.records.Publish(bounded, staffetta.JournalKeySubject(j.source), appendKeyRecord(nil, covered, batch))
		cancel()
		if err != nil {
			j.log.Error().Err(err).Str("source", j.source).Msg("cannot record the keys of events; trying again")
			return
		}
		j.covered.Store(max(j.covered.Load(), covered))
		j.mu.Lock()
		j.keys.pending = append([]storedKey(nil), j.keys.pending[len(batch):]...)
		j.mu.Unlock()
	}
}

// How many messages are asked for at once: of those with payloads, which may be large, and of others.
const (
	readAhead      = 8
	readAheadSmall = 200
)

// readAll calls f for every message of a stream that cfg selects and that is there by now.
func readAll(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig, f func(jetstream.Msg) error) error {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.Replicas = jetstream.AckNonePolicy, true, 1
	cfg.InactiveThreshold = time.Minute
	consumer, err := js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return fmt.Errorf("create consumer on %s: %w", stream, err)
	}
	defer func() { _ = js.DeleteConsumer(context.WithoutCancel(ctx), stream, consumer.CachedInfo().Name) }()
	ahead := uint64(readAhead)
	if stream == staffetta.IdempotencyStream {
		ahead = readAheadSmall
	}
	for left := consumer.CachedInfo().NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, ahead)), jetstream.FetchMaxWait(10*time.Second))
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
			return fmt.Errorf("read %s: %d messages missing: %w", stream, left, batch.Error())
		}
		left -= min(got, left)
	}
	return nil
}
