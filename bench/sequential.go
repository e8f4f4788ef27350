package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// SequentialClient is what MeasureSequential calls the bench's own program with, to send from a process of
// its own. It is in no list, for it finds nothing out by itself.
const SequentialClient = "sequential-client"

// sequentialSent is what the client says at its end.
type sequentialSent struct {
	// Sent counts the events that were handed to the network, Accepted those that were answered with 200.
	Sent     uint32 `json:"sent"`
	Accepted uint32 `json:"accepted"`
	// Started is when it began to send, in Unix nanoseconds: starting a process is no part of the floor.
	Started int64 `json:"started"`
}

// MeasureSequential measures what one client delivers to one endpoint in d. The client is a process of its
// own, started from binary: a relay always is one, and within the bench's a request would be spared the two
// changes of process that it and its answer take.
func MeasureSequential(ctx context.Context, binary string, sink *Sink, layout *Layout, templates *Templates, d time.Duration) (float64, error) {
	run := directRun(sink, layout, templates, 1)
	var err error
	if run.address, err = sink.loopback(); err != nil {
		return 0, err
	}
	perSecond, err := run.judged(func(tracks []*Track, m *Measure) error {
		return run.workApart(ctx, binary, tracks[0], m, d)
	})
	if err != nil {
		return 0, fmt.Errorf("measure the sequential floor: %w", err)
	}
	return perSecond, nil
}

// workApart has a process send one track for d, and notes in the track and the measure what it says of it.
func (r *floorRun) workApart(ctx context.Context, binary string, t *Track, m *Measure, d time.Duration) error {
	t.sent.Store(math.MaxUint32) // until the client says how many
	client, err := startHelper(ctx, binary, SequentialClient,
		"--target", r.uri(t.First), "--payload", strconv.Itoa(r.templates.Size), "--duration", d.String())
	if err != nil {
		return err
	}
	// Every user of the machine can read a command line, so the key takes another way. Where it does not
	// arrive the client has failed, and says why.
	_, _ = io.WriteString(client.stdin, r.key(t.First))
	_ = client.stdin.Close()
	var sent sequentialSent
	if err := client.hear(&sent, d+stopWithin); err != nil {
		return err
	}
	if err := client.end(); err != nil {
		return err
	}
	t.sent.Store(sent.Sent)
	t.accepted.Store(sent.Accepted)
	m.from.Store(sent.Started)
	return nil
}

// RunSequentialClient is the client's process: for the duration of the options it posts signed events of
// their payload to their target, which must be on the loopback, and then says on stdout what it sent, as a
// line of JSON. stdin has the signing key. The error is a UsageError where the options make no sense.
func RunSequentialClient(ctx context.Context, o Options, stdin io.Reader, stdout io.Writer) error {
	o.Batch = 1
	o = o.or(usual)
	if err := o.Validate(); err != nil {
		return err
	}
	u, err := loopbackTarget(o.Target, "the URL of a sink on the loopback, such as http://127.0.0.1:9000/e/0")
	if err != nil {
		return err
	}
	key, err := io.ReadAll(io.LimitReader(stdin, 1<<10))
	if err != nil {
		return fmt.Errorf("read the signing key: %w", err)
	}
	signer, err := staffetta.NewSigner(strings.TrimSpace(string(key)))
	if err != nil {
		return UsageError("the standard input must be a signing key: " + err.Error())
	}
	templates, err := NewTemplates(o.Payload)
	if err != nil {
		return err
	}
	client := floorClient{address: u.Host, uri: o.Target, signer: signer, size: templates.Size}
	track := &Track{Fan: 1, templates: templates.Of(templates.Types()...)}
	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	started := time.Now()
	if err := client.send(ctx, track); err != nil {
		return fmt.Errorf("send to %s: %w", u.Host, err)
	}
	return json.NewEncoder(stdout).Encode(sequentialSent{Sent: track.Sent(), Accepted: track.Accepted(), Started: started.UnixNano()})
}
