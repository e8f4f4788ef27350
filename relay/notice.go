package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// NoticesConfig of a Notices. A zero field is its default.
type NoticesConfig struct {
	// JetStream keeps the mails until they are sent.
	JetStream jetstream.JetStream
	// Mail says how mails are sent; nil sends none.
	Mail *MailConfig
	// QuotaWindow is how long a failure counts; the mails say so. Default 30 minutes.
	QuotaWindow time.Duration
	// DigestEvery is the least time between two digests of a workspace's dropped events. Default 1 hour.
	DigestEvery time.Duration
	// DigestGather is how long the first drop waits for others, so that one digest tells of them
	// together. Default 1 minute.
	DigestGather time.Duration
	// Buffer is how many facts may wait in memory until they are stored; what comes beyond is lost, and
	// counted. Default 65,536.
	Buffer int
	// StopWait is how long a stop waits for what is in memory to be stored, and for the mail under way
	// to be sent. Default 10 s.
	StopWait time.Duration
	Log      zerolog.Logger
}

func (c *NoticesConfig) setDefaults() error {
	if c.JetStream == nil {
		return errors.New("notices config: JetStream is missing")
	}
	c.QuotaWindow = orDefaultTime(c.QuotaWindow, 30*time.Minute)
	c.DigestEvery = orDefaultTime(c.DigestEvery, time.Hour)
	c.DigestGather = orDefaultTime(c.DigestGather, time.Minute)
	c.StopWait = orDefaultTime(c.StopWait, 10*time.Second)
	c.Buffer = orDefault(c.Buffer, 65_536)
	return nil
}

func orDefaultTime(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Notices tells a workspace what becomes of its webhooks: by mail, and by operational events to its
// operations URL.
//
// The guarantee: a fact is stored as soon as the store takes it; what is stored survives a kill. A
// mail is then tried for a day, and after a clean stop never sent twice. Only what is still in memory
// when the process is killed, or comes while the store has refused for so long that the buffer is
// full, is lost; the latter is counted. The methods that take facts never wait.
type Notices struct {
	cfg      NoticesConfig
	outbox   *outbox // nil where no mail is sent
	digests  *digests
	wake     chan struct{}
	registry *Registry
	publish  *publisher
	shards   int

	mu      sync.Mutex
	waiting []notice
	stats   NoticeStats
}

// NoticeStats counts since the start.
type NoticeStats struct {
	// Sent mails, and those GivenUp because the server refused them or none took them for a day.
	Sent, GivenUp uint64
	// Queued mails of the moment.
	Queued int
	// Operations is how many operational events were stored for delivery.
	Operations uint64
	// Lost facts found no room in memory, or could not be stored before the stop.
	Lost uint64
}

// FailedAttempt is one failure, as the notice of a disabling lists it.
type FailedAttempt struct {
	At        time.Time `json:"at"`
	EventType string    `json:"event_type"`
	// Status is the HTTP status, 0 where Error says why there is none.
	Status int    `json:"status,omitzero"`
	Error  string `json:"error,omitzero"`
}

// maxFailures is how many failures the notice of a disabling lists.
const maxFailures = 5

// noticeKind is what a notice is about: the event_type of its operational event.
type noticeKind string

const (
	noticeWarning  noticeKind = "endpoint.warning"
	noticeDisabled noticeKind = "endpoint.disabled"
	noticeEnabled  noticeKind = "endpoint.enabled"
	noticeDropped  noticeKind = "event.dropped"
	// noticeDigest is a mail's alone: of events dropped.
	noticeDigest noticeKind = "digest"
)

// notice is one fact on its way.
type notice struct {
	kind      noticeKind
	id        string // of the operational event
	at        time.Time
	workspace string
	endpoint  string
	url       string
	reason    string
	percent   int
	count     int
	quota     int
	failures  []FailedAttempt
	eventID   string
	eventType string
}

// NewNotices checks the configuration. Facts may come at once; nothing is told before Run. Hand it to
// New as Config.Notices.
func NewNotices(cfg NoticesConfig) (*Notices, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Notices{cfg: cfg, wake: make(chan struct{}, 1)}
	n.digests = newDigests(cfg.DigestEvery, cfg.DigestGather)
	if cfg.Mail == nil {
		return n, nil
	}
	postman, err := newPostman(*cfg.Mail)
	if err != nil {
		return nil, err
	}
	n.outbox = newOutbox(postman, letterWriter{publicURL: strings.TrimRight(cfg.Mail.PublicURL, "/"), window: cfg.QuotaWindow}, cfg.Log)
	return n, nil
}

// attach makes the rest of the relay known, before Run.
func (n *Notices) attach(r *Registry, p *publisher, shards int) {
	n.registry, n.publish, n.shards = r, p, shards
}

// Warning tells that the failures of the window have reached a part of the quota, in percent. endpoint
// is the one that failed; with the scope endpoint the quota is its own. At 100 percent no mail is
// sent: that of the disabling would be on its heels.
func (n *Notices) Warning(workspace, endpoint string, percent, count, quota int) {
	n.take(notice{kind: noticeWarning, workspace: workspace, endpoint: endpoint, percent: percent, count: count, quota: quota})
}

// Disabled tells that an endpoint was disabled. Where the reason is staffetta.DisabledByUser no mail
// is sent: who did it knows. lastFailures may be of any length, the oldest first.
func (n *Notices) Disabled(workspace, endpoint, url, reason string, count, quota int, lastFailures []FailedAttempt) {
	if drop := len(lastFailures) - maxFailures; drop > 0 {
		lastFailures = lastFailures[drop:]
	}
	n.take(notice{
		kind: noticeDisabled, workspace: workspace, endpoint: endpoint, url: url, reason: reason,
		count: count, quota: quota, failures: slices.Clone(lastFailures),
	})
}

// Enabled tells that an endpoint was enabled again.
func (n *Notices) Enabled(workspace, endpoint, url string) {
	n.take(notice{kind: noticeEnabled, workspace: workspace, endpoint: endpoint, url: url})
}

// Dropped tells that an event is among the dead letters.
func (n *Notices) Dropped(workspace, endpoint, eventID, eventType, reason string) {
	n.take(notice{kind: noticeDropped, workspace: workspace, endpoint: endpoint, eventID: eventID, eventType: eventType, reason: reason})
}

// take keeps a fact in memory and wakes Run. A hidden endpoint is no subject of facts.
func (n *Notices) take(f notice) {
	if staffetta.IsOperationsEndpoint(f.endpoint) {
		return
	}
	f.at, f.id, f.reason = stamp(), uuid.Must(uuid.NewV7()).String(), oneLine(f.reason)
	n.mu.Lock()
	full := len(n.waiting) >= n.cfg.Buffer
	if full {
		n.stats.Lost++
	} else {
		n.waiting = append(n.waiting, f)
	}
	first := n.stats.Lost == 1
	n.mu.Unlock()
	if full {
		if first {
			n.cfg.Log.Error().Int("buffer", n.cfg.Buffer).Msg("the store takes no notices and the buffer is full; notices are lost, and counted")
		}
		return
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Stats counts what became of the notices.
func (n *Notices) Stats() NoticeStats {
	n.mu.Lock()
	s := n.stats
	n.mu.Unlock()
	if n.outbox != nil {
		s.Sent, s.GivenUp, s.Queued = n.outbox.counts()
	}
	return s
}

// maxNoticeBatch bounds the facts that are stored together.
const maxNoticeBatch = 256

// Run stores facts and sends mails until ctx ends; then it stores what is in memory and lets the mail
// under way be sent. End whatever calls its methods before.
func (n *Notices) Run(ctx context.Context) error {
	if n.registry == nil {
		return errors.New("run notices: no relay was made with them")
	}
	// What is under way at a stop has StopWait to end.
	late, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(n.cfg.StopWait, cut)
		context.AfterFunc(late, func() { timer.Stop() })
	})
	defer stop()

	var mails sync.WaitGroup
	defer mails.Wait()
	if n.outbox == nil {
		n.cfg.Log.Info().Msg("no mails are sent: there is no --smtp-url")
	} else {
		stream, err := n.cfg.JetStream.Stream(ctx, staffetta.NoticeStream)
		if err != nil {
			return fmt.Errorf("open notices: %w", err)
		}
		if err := n.outbox.load(ctx, stream); err != nil {
			return err
		}
		if err := n.digests.load(ctx, stream); err != nil {
			return err
		}
		mails.Go(func() { n.outbox.run(ctx, late) })
	}
	n.storeFacts(ctx, late)
	return nil
}

// storeFacts is the loop of Run: facts as they come, digests as they are due.
func (n *Notices) storeFacts(ctx, late context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for {
			batch := n.next()
			if len(batch) == 0 {
				break
			}
			n.store(late, batch)
		}
		if ctx.Err() != nil {
			return
		}
		n.sendDigests(late)
		timer.Reset(n.digests.untilNext(time.Now()))
		select {
		case <-n.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// next takes the oldest facts out of memory.
func (n *Notices) next() []notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	size := min(len(n.waiting), maxNoticeBatch)
	batch := slices.Clone(n.waiting[:size])
	n.waiting = n.waiting[size:]
	if len(n.waiting) == 0 {
		n.waiting = nil
	}
	return batch
}

// store puts facts where they survive: as operational events, as mails, or in the next digest.
func (n *Notices) store(ctx context.Context, batch []notice) {
	var (
		events []operationalEvent
		mails  []mailJob
	)
	for i := range batch {
		f := &batch[i]
		ws, err := n.registry.Workspace(f.workspace)
		if err != nil {
			continue // deleted meanwhile
		}
		endpoint, err := n.registry.Endpoint(f.workspace, f.endpoint)
		if err == nil && f.url == "" {
			f.url = endpoint.URL
		}
		if ws.OperationsURL != "" {
			events = append(events, operationalEventOf(f))
		}
		switch {
		case n.outbox == nil || len(ws.NotifyEmails) == 0:
		case f.kind == noticeDropped:
			n.digests.add(f)
		case f.kind == noticeWarning && f.percent < 100, f.kind == noticeDisabled && f.reason != staffetta.DisabledByUser:
			mails = append(mails, mailJobs(ws, letterOf(f, ws, endpoint), f.id)...)
		}
	}
	if len(events) > 0 {
		n.untilStored(ctx, "store operational events", len(events), func(ctx context.Context) error {
			return n.storeEvents(ctx, events)
		})
	}
	for _, j := range mails {
		n.queueMail(ctx, j)
	}
	n.keepDigests(ctx)
}

func (n *Notices) queueMail(ctx context.Context, j mailJob) {
	n.untilStored(ctx, "queue a mail", 1, func(ctx context.Context) error {
		return n.outbox.queue(ctx, n.cfg.JetStream, j)
	})
}

// sendDigests turns what the digests have gathered into mails, where they are due.
func (n *Notices) sendDigests(ctx context.Context) {
	for _, d := range n.digests.take(time.Now()) {
		ws, err := n.registry.Workspace(d.Workspace)
		if err != nil {
			continue
		}
		id := "digest " + d.Workspace + d.Since.Format(time.RFC3339Nano)
		for _, j := range mailJobs(ws, letterOfDigest(d, ws), id) {
			n.queueMail(ctx, j)
		}
	}
	n.keepDigests(ctx)
}

// keepDigests writes the digests that have changed.
func (n *Notices) keepDigests(ctx context.Context) {
	for workspace, d := range n.digests.changes() {
		n.untilStored(ctx, "keep a digest", 1, func(ctx context.Context) error {
			return d.keep(ctx, n.cfg.JetStream, workspace)
		})
	}
}

// untilStored tries until f succeeds or ctx ends: then the facts are lost.
func (n *Notices) untilStored(ctx context.Context, doing string, facts int, f func(context.Context) error) {
	for failed := false; ; failed = true {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		err := f(bounded)
		cancel()
		if err == nil {
			return
		}
		if !failed {
			n.cfg.Log.Error().Err(err).Msg("cannot " + doing + "; trying again")
		}
		select {
		case <-ctx.Done():
			n.mu.Lock()
			n.stats.Lost += uint64(facts)
			n.mu.Unlock()
			n.cfg.Log.Error().Err(err).Int("notices", facts).Msg("cannot " + doing + "; they are lost")
			return
		case <-time.After(time.Second):
		}
	}
}

// oneLine makes a text fit one line of a mail: no control characters, at most 200 bytes.
func oneLine(text string) string {
	const longest = 200
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}
