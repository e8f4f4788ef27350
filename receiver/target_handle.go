package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// HandleTarget hands events to a function of the program. Every event is handed over at least once.
type HandleTarget struct {
	// Handle takes an event: nil is success. An error, or a panic, is tried again later, unless it is
	// wrapped with Permanent. It should return soon after ctx ends; what waits for the event waits for
	// it. e is its own to keep.
	Handle func(ctx context.Context, e staffetta.Event) error
	// Timeout ends ctx. Default 30 s; 10 ms to 1 h.
	Timeout time.Duration
}

// Permanent marks an error of a Handle function that no further attempt can mend: the event goes to
// the dead letters at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

func (t HandleTarget) validate() error {
	if t.Handle == nil {
		return onField("handle", "Handle", "is missing; give the function that takes the events")
	}
	return timeoutOf("handle", t.Timeout)
}

func (t HandleTarget) open() (handler, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	t.Timeout = orDefault(t.Timeout)
	return &functionHandler{t}, nil
}

type functionHandler struct{ HandleTarget }

func (h *functionHandler) close() {}

func (h *functionHandler) handOver(ctx context.Context, entries []*sender.Entry, _ int) sender.Handed {
	for i, e := range entries {
		if handed := h.one(ctx, e); handed.Accepted == 0 {
			handed.Accepted = i
			return handed
		}
	}
	return sender.Handed{Accepted: len(entries)}
}

func (h *functionHandler) one(stop context.Context, e *sender.Entry) sender.Handed {
	if stop.Err() != nil {
		return cutOff()
	}
	ctx, cancel := context.WithTimeout(stop, h.Timeout)
	defer cancel()
	event := e.Event
	event.Payload = bytes.Clone(event.Payload)
	err := h.call(ctx, event)
	if err == nil {
		return sender.Handed{Accepted: 1}
	}
	detail := firstLine(err.Error())
	if _, ok := errors.AsType[*permanentError](err); ok {
		return targetRefused(detail)
	}
	switch {
	case stop.Err() != nil:
		return cutOff()
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		return targetFailed(staffetta.ErrorTimeout, detail)
	default:
		return targetFailed(staffetta.ErrorTarget, detail)
	}
}

func (h *functionHandler) call(ctx context.Context, e staffetta.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return h.Handle(ctx, e)
}
