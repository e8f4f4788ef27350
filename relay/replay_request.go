package relay

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/staffetta-relay/staffetta"
)

const (
	// MaxReplayEvents is how many event ids one replay may name.
	MaxReplayEvents = 10_000
	// maxReplayBody holds them at their longest.
	maxReplayBody = 2 << 20
)

// replayOutcome says which events a replay takes.
type replayOutcome string

const (
	replayDropped   replayOutcome = "dropped"
	replayDelivered replayOutcome = "delivered"
	replayAll       replayOutcome = "all"
)

// replayBody is what a replay is asked for with.
type replayBody struct {
	ReplayID  optional[string]   `json:"replay_id"`
	EventIDs  optional[[]string] `json:"event_ids"`
	Endpoint  optional[string]   `json:"endpoint"`
	EventType optional[string]   `json:"event_type"`
	Since     optional[string]   `json:"since"`
	Until     optional[string]   `json:"until"`
	Outcome   optional[string]   `json:"outcome"`
}

// replayRequest is a valid request; the ids of its events are kept apart from it.
type replayRequest struct {
	// Events is how many event ids were given; 0 is a request by filter.
	Events    int           `json:"events,omitzero"`
	Endpoint  string        `json:"endpoint,omitzero"`
	EventType string        `json:"event_type,omitzero"`
	Since     *time.Time    `json:"since,omitzero"`
	Until     *time.Time    `json:"until,omitzero"`
	Outcome   replayOutcome `json:"outcome"`
}

// parse checks the body. The ids come without repeats.
func (b *replayBody) parse() (req replayRequest, ids []string, err error) {
	req = replayRequest{Endpoint: b.Endpoint.value, EventType: b.EventType.value, Outcome: replayOutcome(b.Outcome.value)}
	if b.ReplayID.given && !staffetta.ValidID(b.ReplayID.value) {
		return req, nil, bodyError("invalid_replay_id", "replay_id", "must be 1 to 64 letters, digits, dashes or underscores")
	}
	if err := checkEndpointFilter(req.Endpoint); err != nil {
		return req, nil, err
	}
	if req.Since, err = timeMember("since", b.Since.value); err != nil {
		return req, nil, err
	}
	if req.Until, err = timeMember("until", b.Until.value); err != nil {
		return req, nil, err
	}
	if req.Since != nil && req.Until != nil && !req.Since.Before(*req.Until) {
		return req, nil, bodyError("invalid_time", "until", "must be later than since")
	}
	switch req.Outcome {
	case "":
		if req.Outcome = replayDropped; b.EventIDs.given {
			req.Outcome = replayAll
		}
	case replayDropped, replayDelivered, replayAll:
	default:
		return req, nil, bodyError("invalid_outcome", "outcome", "must be dropped, delivered or all")
	}
	switch {
	case b.EventIDs.given && (req.EventType != "" || req.Since != nil || req.Until != nil):
		return req, nil, bodyError("invalid_replay", "event_ids", "goes with endpoint and outcome alone, not with event_type, since or until")
	case b.EventIDs.given:
		ids, err = uniqueEventIDs(b.EventIDs.value)
		req.Events = len(ids)
		return req, ids, err
	case req.Endpoint == "" && req.Since == nil:
		return req, nil, bodyError("invalid_replay", "", "say what to replay: event_ids, or an endpoint, or since when")
	}
	return req, nil, nil
}

func timeMember(field, text string) (*time.Time, error) {
	t, err := timeOf(field, text)
	if err != nil || t.IsZero() {
		return nil, err
	}
	return &t, nil
}

func uniqueEventIDs(given []string) ([]string, error) {
	if len(given) == 0 || len(given) > MaxReplayEvents {
		return nil, bodyError("invalid_event_ids", "event_ids", "must be 1 to "+strconv.Itoa(MaxReplayEvents)+" event ids; beyond that replay by endpoint and since")
	}
	known := make(map[string]bool, len(given))
	ids := make([]string, 0, len(given))
	for _, id := range given {
		if !staffetta.ValidEventID(id) {
			return nil, bodyError("invalid_event_ids", "event_ids", "has one that is no event id: "+quote(id))
		}
		if !known[id] {
			known[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// fingerprintOfReplay stands for a request; it is a subject token.
func fingerprintOfReplay(req replayRequest, ids []string) (string, error) {
	text, err := json.Marshal(struct {
		Request replayRequest
		IDs     []string
	}{req, ids}, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:16]), nil
}
