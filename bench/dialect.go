package bench

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/valyala/fasthttp"
)

// Dialect is how a program takes events, so that the same producers can load a relay, a receiver, or
// whatever stands in for them.
type Dialect struct {
	// Path is where the events of a workspace go.
	Path func(workspace int) string
	// Header sets what every request to a workspace carries; called once for each of them.
	Header func(h *fasthttp.RequestHeader, workspace int)
	// Sign sets what depends on the body, before each post; nil for nothing.
	Sign func(h *fasthttp.RequestHeader, workspace int, body []byte)
	// Taken says whether an answer means that all of so many events were taken. An error that is
	// ErrAgain has the same body sent again; any other ends the load.
	Taken func(status int, body []byte, events int) error
}

// ErrAgain is an answer that says: later.
var ErrAgain = errors.New("not taken, send it again")

// RelayDialect speaks to a relay's API with its admin key.
func RelayDialect(layout *Layout, adminKey string, batch int) Dialect {
	return Dialect{
		Path: func(workspace int) string { return "/v1/workspaces/" + layout.Workspaces[workspace].ID + "/events" },
		Header: func(h *fasthttp.RequestHeader, _ int) {
			h.Set(fasthttp.HeaderAuthorization, "Bearer "+adminKey)
			h.SetContentType("application/json")
			if batch > 1 {
				h.SetContentType("application/x-ndjson")
			}
		},
		Taken: func(status int, body []byte, events int) error {
			if err := wantStatus(fasthttp.StatusAccepted, status, body); err != nil || batch == 1 {
				return err
			}
			const before = `{"accepted":`
			count, rest, _ := bytes.Cut(bytes.TrimPrefix(body, []byte(before)), []byte(","))
			if n, err := strconv.Atoi(string(count)); err != nil || n != events || !bytes.Contains(rest, []byte(`"rejected":[]`)) {
				return fmt.Errorf("of %d events some were rejected: %.300s", events, body)
			}
			return nil
		},
	}
}

// wantStatus tells what to send again from what is wrong.
func wantStatus(want, status int, body []byte) error {
	switch {
	case status == want:
		return nil
	case status == fasthttp.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("status %d: %.300s: %w", status, body, ErrAgain)
	default:
		return fmt.Errorf("status %d: %.300s", status, body)
	}
}
