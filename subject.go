package staffetta

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// The names of streams, subjects and buckets. A workspace's and an endpoint's id are subject
// tokens by validation, so they stand here as they are.
const (
	// AttemptStream is the log of attempts, in blocks.
	AttemptStream = "ATTEMPTS"
	// CursorStream keeps one message a shard: where each of its lanes stands.
	CursorStream = "CURSORS"
	// DeadLetterStream keeps dropped events with their payload and the reason.
	DeadLetterStream = "DEAD_LETTERS"
	// IdempotencyStream remembers, in batches, the keys of accepted events.
	IdempotencyStream = "IDEMPOTENCY"
	// ReplayStream keeps what was asked to be sent again, and how far that has come.
	ReplayStream = "REPLAYS"
	// NoticeStream keeps the mails that are still to be sent, and what the next digests will say.
	NoticeStream = "NOTICES"
	// JournalStream keeps what a receiver took in, in blocks, until every target has it.
	JournalStream = "JOURNAL"
	// RegistryBucket is the key-value bucket of workspaces, endpoints and API keys.
	RegistryBucket = "REGISTRY"

	// CursorSubjects, DeadLetterSubjects and IdempotencySubject are what those streams listen to.
	CursorSubjects     = "cursors.*"
	DeadLetterSubjects = "dead.*.*"
	IdempotencySubject = "idempotency"
	// JournalSubjects and JournalKeySubjects are what a receiver's journal, and its IdempotencyStream,
	// listen to.
	JournalSubjects    = "journal.*"
	JournalKeySubjects = "idempotency.*"
	// AttemptSubject is where blocks of the attempt log are published.
	AttemptSubject = "attempts"
	// ReplaySubjects and ReplayRecordSubjects are all that ReplayStream listens to, and the records alone.
	ReplaySubjects       = "replays.>"
	ReplayRecordSubjects = "replays.record.*.*"
	// NoticeSubjects and NoticeMailSubjects are all that NoticeStream listens to, and the mails alone.
	NoticeSubjects     = "notices.>"
	NoticeMailSubjects = "notices.mail.*"
	// NoticeDigestSubjects are where the digests of all workspaces are kept.
	NoticeDigestSubjects = "notices.digest.*"
)

// MaxShards bounds how many streams the events may be spread over.
const MaxShards = 1024

// Shard is the shard that an endpoint lives in, from 0 to shards-1, for ever.
func Shard(endpoint string, shards int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(endpoint))
	return int(h.Sum32() % uint32(shards))
}

// EventStream is the name of a shard's stream.
func EventStream(shard int) string { return "EVENTS_" + strconv.Itoa(shard) }

// EventSubjects is what a shard's stream listens to.
func EventSubjects(shard int) string { return "events." + strconv.Itoa(shard) + ".*" }

// EventSubject is where the events of an endpoint are published.
func EventSubject(shard int, endpoint string) string {
	return "events." + strconv.Itoa(shard) + "." + endpoint
}

// CursorSubject is where a shard's cursors are kept.
func CursorSubject(shard int) string { return "cursors." + strconv.Itoa(shard) }

// JournalSubject is where the blocks of a receiver's source are published.
func JournalSubject(source string) string { return "journal." + source }

// JournalKeySubject is where the keys of a source's events are recorded.
func JournalKeySubject(source string) string { return "idempotency." + source }

// FeedCursorSubject is where the cursor of a receiver's feed is kept. Its name is a subject token; one of
// digits alone would stand where a shard's cursors do, so keep feeds and shards in stores of their own.
func FeedCursorSubject(name string) string { return "cursors." + name }

// DeadLetterSubject is where the dropped events of an endpoint are kept.
func DeadLetterSubject(workspace, endpoint string) string {
	return "dead." + workspace + "." + endpoint
}

// ReplaySubject is where the record of a replay is kept.
func ReplaySubject(workspace, replay string) string {
	return "replays.record." + workspace + "." + replay
}

// ReplayEventSubject is where the event ids of a replay are kept; fingerprint, a subject token, is that
// of its request.
func ReplayEventSubject(workspace, replay, fingerprint string) string {
	return "replays.events." + workspace + "." + replay + "." + fingerprint
}

// NoticeMailSubject is where a mail waits; id is a subject token.
func NoticeMailSubject(id string) string { return "notices.mail." + id }

// NoticeDigestSubject is where a workspace's next digest is gathered.
func NoticeDigestSubject(workspace string) string { return "notices.digest." + workspace }

// operationsPrefix starts the id of a workspace's hidden endpoint; no id that the relay makes does.
const operationsPrefix = "op_"

// OperationsEndpoint is the id of the hidden endpoint that takes a workspace's operational events to
// its operations URL.
func OperationsEndpoint(workspace string) string { return operationsPrefix + workspace }

// IsOperationsEndpoint reports whether an id is that of a hidden endpoint, whose failures never count.
func IsOperationsEndpoint(id string) bool { return strings.HasPrefix(id, operationsPrefix) }

// The headers of a dead letter; its data is the payload.
const (
	// HeaderEventID is the event_id, as the endpoint sees it in webhook-id.
	HeaderEventID = "Event-Id"
	// HeaderEventType is the event_type.
	HeaderEventType = "Event-Type"
	// HeaderAttempts is how many attempts were made.
	HeaderAttempts = "Attempts"
	// HeaderStatusCode is the status of the last one; absent where there was none.
	HeaderStatusCode = "Status-Code"
	// HeaderError is what the last one came to, as Outcome.String says it.
	HeaderError = "Error"
	// HeaderStoredAt and HeaderDroppedAt are times in RFC 3339.
	HeaderStoredAt  = "Stored-At"
	HeaderDroppedAt = "Dropped-At"
)
