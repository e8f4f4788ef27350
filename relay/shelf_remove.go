package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// shelfManage bounds a request that changes a stream: a purge by subject takes half a second for half a
// million messages.
const shelfManage = 30 * time.Second

// remove takes one message away; gone is false where it was not there.
func (s shelf) remove(ctx context.Context, sequence uint64) (gone bool, err error) {
	_, err = s.manage(ctx, "MSG.DELETE", struct {
		Sequence uint64 `json:"seq"`
		NoErase  bool   `json:"no_erase"`
	}{sequence, true})
	if err == nil {
		return true, nil
	}
	if m, failed := s.at(ctx, sequence); failed == nil && m == nil {
		return false, nil // somebody else was first
	}
	return false, err
}

// purge removes the messages of a subject, of those before a sequence where it is not 0, and says how
// many they were.
func (s shelf) purge(ctx context.Context, subject string, before uint64) (uint64, error) {
	answer, err := s.manage(ctx, "PURGE", struct {
		Filter   string `json:"filter"`
		Sequence uint64 `json:"seq,omitzero"`
	}{subject, before})
	return answer.Purged, err
}

// managed is the answer to a request that changes a stream.
type managed struct {
	Purged uint64 `json:"purged"`
	Error  *struct {
		Description string `json:"description"`
	} `json:"error"`
}

func (s shelf) manage(ctx context.Context, verb string, request any) (managed, error) {
	var answer managed
	body, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(ctx, shelfManage)
	defer cancel()
	msg, err := s.conn.RequestWithContext(ctx, "$JS.API.STREAM."+verb+"."+s.stream, body)
	if err != nil {
		return answer, fmt.Errorf("change the store: %w: %w", ErrUnavailable, err)
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return answer, fmt.Errorf("change the store: %w", err)
	}
	if answer.Error != nil {
		return answer, fmt.Errorf("change the store: %w: %s", ErrUnavailable, answer.Error.Description)
	}
	return answer, nil
}
