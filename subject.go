package staffetta

import (
	"hash/fnv"
	"strconv"
)

// The names of streams, subjects and buckets. A workspace's and an endpoint's id are subject
// tokens by validation, so they stand here as they are.
const (
	// CursorStream keeps one message a shard: where each of its lanes stands.
	CursorStream = "CURSORS"
	// DeadLetterStream keeps dropped events with their payload and the reason.
	DeadLetterStream = "DEAD_LETTERS"
	// IdempotencyStream remembers, in batches, the keys of accepted events.
	IdempotencyStream = "IDEMPOTENCY"
	// RegistryBucket is the key-value bucket of workspaces, endpoints and API keys.
	RegistryBucket = "REGISTRY"

	// CursorSubjects, DeadLetterSubjects and IdempotencySubject are what those streams listen to.
	CursorSubjects     = "cursors.*"
	DeadLetterSubjects = "dead.*.*"
	IdempotencySubject = "idempotency"
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

// DeadLetterSubject is where the dropped events of an endpoint are kept.
func DeadLetterSubject(workspace, endpoint string) string {
	return "dead." + workspace + "." + endpoint
}

// The headers of a stored event.
const (
	// HeaderEventID is the event_id, as the endpoint sees it in webhook-id.
	HeaderEventID = "Event-Id"
	// HeaderEventType is the event_type.
	HeaderEventType = "Event-Type"
	// HeaderIdempotency is the fingerprint of the key that the producer gave for the event.
	HeaderIdempotency = "Idempotency"
	// HeaderReplay is there when the event is sent again on request.
	HeaderReplay = "Replay"
)

// The headers of a dead letter, beside HeaderEventID and HeaderEventType; its data is the payload.
const (
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
