package receiver

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// NATSTarget publishes the bodies of events to JetStream, with the headers Nats-Msg-Id and Event-Id
// (both the event's id), Event-Type, Content-Type, and Event-Replay: true on a replay. Every event is
// stored at least once; within the stream's duplicate window (2 minutes, if it does not say
// otherwise) once, and a replay within it changes nothing. Events are published in their order; one
// that the stream did not take at first can come behind up to a batch of later ones.
type NATSTarget struct {
	// URL of the server, or several with commas between them: nats://host:4222 or tls://host:4222. A
	// user, password or token in it never shows in an error.
	URL string
	// Subject to publish to. A stream must listen on it.
	Subject string
	// Credentials is the path of a .creds file; empty for none.
	Credentials string
	// Timeout of one hand-over. Default 30 s; 10 ms to 1 h.
	Timeout time.Duration
}

func (t NATSTarget) validate() error {
	if t.URL == "" {
		return onField("nats", "URL", "is missing; give one such as nats://127.0.0.1:4222")
	}
	for server := range strings.SplitSeq(t.URL, ",") {
		scheme, rest, found := strings.Cut(strings.TrimSpace(server), "://")
		if !found || rest == "" || scheme != "nats" && scheme != "tls" && scheme != "ws" && scheme != "wss" {
			return onField("nats", "URL", "each server must start with nats://, tls://, ws:// or wss:// and have a host")
		}
	}
	if !isSubject(t.Subject) {
		return onField("nats", "Subject", "must be words with dots between them, without spaces or wildcards, such as crm.events")
	}
	if t.Credentials != "" {
		if _, err := os.Stat(t.Credentials); err != nil {
			return onField("nats", "Credentials", "the file cannot be read: "+reason(err))
		}
	}
	return timeoutOf("nats", t.Timeout)
}

// isSubject reports whether s can be published to.
func isSubject(s string) bool {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c == '*' || c == '>' || c == 0x7f }) {
			return false
		}
	}
	return !strings.HasPrefix(s, "$")
}

func (t NATSTarget) open() (handler, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	t.Timeout = orDefault(t.Timeout)
	return &natsHandler{NATSTarget: t}, nil
}

type natsHandler struct {
	NATSTarget

	mu sync.Mutex
	nc *nats.Conn // nil before the first event
	js jetstream.JetStream
}

func (h *natsHandler) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nc != nil {
		h.nc.Close()
		h.nc = nil
	}
}

// connect makes the connection, unless it is there. A lost one comes back by itself.
func (h *natsHandler) connect() (*nats.Conn, jetstream.JetStream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nc != nil && !h.nc.IsClosed() {
		return h.nc, h.js, nil
	}
	opts := []nats.Option{
		nats.Name("staffetta receiver"),
		nats.Timeout(min(h.Timeout, 10*time.Second)),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		// While the server is away an event fails at once, and is tried again in its order.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // or it writes to stderr
	}
	if h.Credentials != "" {
		opts = append(opts, nats.UserCredentials(h.Credentials))
	}
	nc, err := nats.Connect(h.URL, opts...)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(h.Timeout))
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	h.nc, h.js = nc, js
	return nc, js, nil
}

func (h *natsHandler) handOver(ctx context.Context, entries []*sender.Entry, _ int) sender.Handed {
	if ctx.Err() != nil {
		return cutOff()
	}
	nc, js, err := h.connect()
	if err != nil {
		return h.failed(err)
	}
	limit, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, 0, len(entries))
	var last sender.Handed // of the entry behind those that were sent
	for _, e := range entries {
		r, err := parseRequest(e.Data)
		if err != nil {
			last = damaged()
			break
		}
		future, err := js.PublishMsgAsync(h.message(e, r), jetstream.WithRetryAttempts(0))
		if err != nil {
			last = h.failed(err)
			break
		}
		futures = append(futures, future)
	}
	remote := nc.ConnectedAddr()
	for i, future := range futures {
		if err := acked(limit, future); err != nil {
			handed := h.failed(err)
			if ctx.Err() != nil {
				handed = cutOff()
			}
			handed.Accepted, handed.Remote = i, remote
			return handed
		}
	}
	last.Accepted, last.Remote = len(futures), remote
	return last
}

func (h *natsHandler) message(e *sender.Entry, r *Request) *nats.Msg {
	msg := &nats.Msg{Subject: h.Subject, Data: r.Body, Header: nats.Header{
		"Nats-Msg-Id": {messageID(e)},
		"Event-Id":    {e.Event.ID},
		"Event-Type":  {e.Event.Type},
	}}
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, "Content-Type") {
			msg.Header["Content-Type"] = []string{f.Value}
		}
	}
	if e.Event.Replay || r.Replay {
		msg.Header["Event-Replay"] = []string{"true"}
	}
	return msg
}

// acked waits for the stream's word.
func acked(ctx context.Context, future jetstream.PubAckFuture) error {
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Codes of JetStream's errors for a message that it will never take.
const (
	errCodeMessageTooLarge jetstream.ErrorCode = 10054
	errCodeHeaderTooLarge  jetstream.ErrorCode = 10097
)

// failed says what an error of the client or the server means. No URL is in it.
func (h *natsHandler) failed(err error) sender.Handed {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		detail := "JetStream: " + firstLine(e.Description) + " (" + strconv.Itoa(int(e.ErrorCode)) + ")"
		if e.ErrorCode == errCodeMessageTooLarge || e.ErrorCode == errCodeHeaderTooLarge {
			return targetRefused(detail)
		}
		return targetFailed(staffetta.ErrorTarget, detail)
	}
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return targetFailed(staffetta.ErrorTarget, "no stream listens on subject "+h.Subject+
			"; create one: nats stream add EVENTS --subjects "+h.Subject)
	case errors.Is(err, nats.ErrMaxPayload):
		return targetRefused("the body is larger than the server's max_payload")
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return targetFailed(staffetta.ErrorTarget, "the server refuses the credentials")
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return targetFailed(staffetta.ErrorReset, "the connection to the server is lost; connecting again")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return targetFailed(staffetta.ErrorTimeout, "no word from the stream within the deadline")
	case errors.Is(err, nats.ErrNoServers):
		return targetFailed(staffetta.ErrorRefused, "no server answers at the URL")
	}
	if _, ok := errors.AsType[net.Error](err); !ok && h.Credentials != "" {
		return targetFailed(staffetta.ErrorTarget, "the credentials file cannot be used")
	}
	return sender.Handed{Outcome: dialled(err)}
}

// dialled is the outcome of a failure to connect.
func dialled(err error) staffetta.Outcome {
	return sender.FailureOutcome(err, sender.StepDial, false)
}

// messageID is what the stream tells a repeat by: the event's id, but for a replay, which is to be taken
// again.
func messageID(e *sender.Entry) string {
	if e.Event.Replay {
		return e.Event.ID + "/" + strconv.FormatUint(e.Sequence, 10)
	}
	return e.Event.ID
}
