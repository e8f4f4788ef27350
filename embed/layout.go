package embed

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// Layout says which streams and buckets there are. A zero field is its default.
type Layout struct {
	// Shards is how many streams the events are spread over, 1 to staffetta.MaxShards. Default 16.
	// It cannot be changed: an endpoint's shard follows from it.
	Shards int
	// Journal lays out a receiver's streams in place of a relay's; Shards is 1 then. JournalBytes bounds
	// what is taken in and not purged yet: beyond it, nothing more is stored. Default, and at
	// most: five eighths of Config.MaxStore.
	Journal      bool
	JournalBytes int64
	// KeyBytes bounds the record of a journal's event ids, 20 bytes each; the oldest go first, and what
	// is left of the store is the cursors'. Default 256 MiB; embedded: at most a sixteenth of
	// Config.MaxStore.
	KeyBytes int64
	// Replicas of every stream, for an external cluster: 1, 3 or 5. Default 1.
	Replicas int
	// DuplicateWindow is how long a repeated Nats-Msg-Id is recognised; the server keeps the ids of
	// that time in memory. Default 2 minutes.
	DuplicateWindow time.Duration
	// DeadLetterAge and DeadLetterBytes bound the dead letters; the oldest go first. Defaults 30 days
	// and 4 GiB (embedded: at most an eighth of Config.MaxStore).
	DeadLetterAge   time.Duration
	DeadLetterBytes int64
	// AttemptAge and AttemptBytes bound the log of attempts; the oldest go first. Defaults 72 hours and
	// 2 GiB (embedded: at most an eighth of Config.MaxStore).
	AttemptAge   time.Duration
	AttemptBytes int64
	// IdempotencyAge is how long a repeated idempotency key is recognised. Default 24 hours.
	IdempotencyAge time.Duration
}

// maxConsumers is explicit because the server takes "unlimited" for "not set", which means 1,000.
const maxConsumers = 1_000_000

// Mails are given up after a day, and digests are due within an hour: what is older is of no use. A
// bound in messages reserves nothing of the store, as one in bytes would.
const (
	noticeAge  = 7 * 24 * time.Hour
	maxNotices = 250_000
)

// A request for a replay is known again for a month, as long as dead letters are kept by default.
const (
	replayAge  = 30 * 24 * time.Hour
	maxReplays = 100_000
)

// shardsKey is where the cursors' stream remembers how many shards they are for.
const shardsKey = "staffetta.shards"

// registryStream is what the server calls the bucket's stream.
const registryStream = "KV_" + staffetta.RegistryBucket

// within fills the defaults and checks the layout against the bound of the store.
func (l Layout) within(maxStore int64) (Layout, error) {
	if maxStore < 16<<20 {
		return l, fmt.Errorf("max store: must be at least 16 MiB")
	}
	if l.DeadLetterBytes == 0 {
		l.DeadLetterBytes = min(4<<30, maxStore/8)
	}
	if l.AttemptBytes == 0 {
		l.AttemptBytes = min(2<<30, maxStore/8)
	}
	if l.Journal && l.JournalBytes == 0 {
		l.JournalBytes = maxStore / 8 * 5
	}
	if l.JournalBytes > maxStore/8*5 {
		return l, fmt.Errorf("journal bytes: %d is more than five eighths of the store's %d", l.JournalBytes, maxStore)
	}
	if l.Journal && l.KeyBytes == 0 {
		l.KeyBytes = min(256<<20, maxStore/16)
	}
	if l.AttemptBytes > maxStore {
		return l, fmt.Errorf("attempt log bytes: %d is more than the store's %d", l.AttemptBytes, maxStore)
	}
	if l.DeadLetterBytes > maxStore {
		return l, fmt.Errorf("dead letter bytes: %d is more than the store's %d", l.DeadLetterBytes, maxStore)
	}
	return l.withDefaults()
}

func (l Layout) withDefaults() (Layout, error) {
	switch {
	case l.Journal && l.Shards > 1:
		return l, fmt.Errorf("shards: a journal has one")
	case l.Journal:
		l.Shards = 1
	case l.Shards == 0:
		l.Shards = 16
	}
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	if l.DuplicateWindow == 0 {
		l.DuplicateWindow = 2 * time.Minute
	}
	if l.DeadLetterAge == 0 {
		l.DeadLetterAge = 30 * 24 * time.Hour
	}
	if l.DeadLetterBytes == 0 {
		l.DeadLetterBytes = 4 << 30
	}
	if l.AttemptAge == 0 {
		l.AttemptAge = 72 * time.Hour
	}
	if l.AttemptBytes == 0 {
		l.AttemptBytes = 2 << 30
	}
	if l.Journal && l.KeyBytes == 0 {
		l.KeyBytes = 256 << 20
	}
	if l.IdempotencyAge == 0 {
		l.IdempotencyAge = 24 * time.Hour
	}
	switch {
	case l.Shards < 1 || l.Shards > staffetta.MaxShards:
		return l, fmt.Errorf("shards: must be between 1 and %d", staffetta.MaxShards)
	case l.Replicas != 1 && l.Replicas != 3 && l.Replicas != 5:
		return l, fmt.Errorf("replicas: must be 1, 3 or 5")
	case l.DuplicateWindow < 100*time.Millisecond:
		return l, fmt.Errorf("duplicate window: must be at least 100ms")
	case l.DeadLetterAge < time.Second || l.IdempotencyAge < time.Second:
		return l, fmt.Errorf("dead letter age, idempotency age: must be at least 1s")
	case l.AttemptAge < time.Second:
		return l, fmt.Errorf("attempt log age: must be at least 1s")
	case l.AttemptBytes < 1<<20:
		return l, fmt.Errorf("attempt log bytes: must be at least 1 MiB")
	case l.Journal && (l.JournalBytes < 1<<20 || l.KeyBytes < 64<<10):
		return l, fmt.Errorf("journal bytes, key bytes: must be at least 1 MiB and 64 KiB")
	case l.DeadLetterBytes < 1<<20:
		return l, fmt.Errorf("dead letter bytes: must be at least 1 MiB")
	}
	return l, nil
}

// streams lists every stream of the layout but the registry's, which is a bucket.
func (l Layout) streams() []jetstream.StreamConfig {
	cursors := l.stream(staffetta.CursorStream, staffetta.CursorSubjects)
	cursors.MaxMsgsPerSubject = 1
	cursors.Metadata = map[string]string{shardsKey: strconv.Itoa(l.Shards)}

	dead := l.stream(staffetta.DeadLetterStream, staffetta.DeadLetterSubjects)
	dead.MaxAge, dead.MaxBytes = l.DeadLetterAge, l.DeadLetterBytes

	keys := l.stream(staffetta.IdempotencyStream, staffetta.IdempotencySubject)
	keys.MaxAge = l.IdempotencyAge

	attempts := l.stream(staffetta.AttemptStream, staffetta.AttemptSubject)
	attempts.MaxAge, attempts.MaxBytes = l.AttemptAge, l.AttemptBytes
	attempts.Duplicates = min(attempts.Duplicates, l.AttemptAge)

	if l.Journal {
		keys.Subjects = []string{staffetta.JournalKeySubjects}
		keys.MaxBytes = l.KeyBytes
		journal := l.stream(staffetta.JournalStream, staffetta.JournalSubjects)
		journal.Discard = jetstream.DiscardNew // full is an error to who stores, never a loss
		journal.MaxBytes, journal.Duplicates = l.JournalBytes, l.DuplicateWindow
		return []jetstream.StreamConfig{attempts, cursors, dead, keys, journal}
	}

	notices := l.stream(staffetta.NoticeStream, staffetta.NoticeSubjects)
	notices.Discard = jetstream.DiscardNew // full is an error to who queues a mail, never a loss
	notices.MaxMsgsPerSubject, notices.MaxMsgs, notices.MaxAge = 1, maxNotices, noticeAge

	replays := l.stream(staffetta.ReplayStream, staffetta.ReplaySubjects)
	replays.MaxMsgsPerSubject, replays.MaxMsgs, replays.MaxAge = 1, maxReplays, replayAge

	configs := []jetstream.StreamConfig{attempts, cursors, dead, keys, notices, replays}
	for shard := range l.Shards {
		events := l.stream(staffetta.EventStream(shard), staffetta.EventSubjects(shard))
		events.Discard = jetstream.DiscardNew // full is an error to the publisher, never a loss
		events.MaxConsumers = maxConsumers
		events.Duplicates = l.DuplicateWindow
		configs = append(configs, events)
	}
	return configs
}

// stream spells out what the server would fill in, so that a config read back compares equal.
func (l Layout) stream(name, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Subjects:          []string{subject},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          l.Replicas,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxMsgsPerSubject: -1,
		Duplicates:        2 * time.Minute,
	}
}

// registry holds workspaces, endpoints and keys, the newest value of each.
func (l Layout) registry() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:   staffetta.RegistryBucket,
		History:  1,
		Storage:  jetstream.FileStorage,
		Replicas: l.Replicas,
	}
}

// names lists every stream of the layout, the registry's included.
func (l Layout) names() []string {
	configs := l.streams()
	names := make([]string, 0, len(configs)+1)
	for _, c := range configs {
		names = append(names, c.Name)
	}
	if l.Journal {
		return names
	}
	return append(names, registryStream)
}
