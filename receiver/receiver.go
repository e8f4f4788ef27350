// Package receiver is the customer's half: it takes webhooks in front of a CRM or a database, verifies
// and stores them, answers 200 at once, and hands each on to every target at the target's own pace.
//
// The guarantee: a webhook is answered with 200 only once it is stored, or was within the last 24 hours.
// From then on every target of its source gets it at least once, in the order that the source asks for,
// or its drop is on record; a kill at any moment loses nothing and breaks no order. What cannot be
// stored is answered with 503, so that the platform sends it again.
package receiver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/semaphore"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// Receiver takes webhooks and hands their events over. Make one with New.
type Receiver struct {
	cfg       Config
	sources   []*source
	paths     map[string]*source
	upstream  fasthttp.RequestHandler // nil without one
	probes    func(*fasthttp.RequestCtx) bool
	bodies    *semaphore.Weighted
	metrics   *Metrics
	refusals  refusals
	server    *fasthttp.Server
	listener  net.Listener
	conns     []*nats.Conn
	records   jetstream.JetStream
	replaying sync.Mutex
	full      atomic.Bool // the journal has no room for another event
}

// New loads what is stored and binds the address. Nothing is taken or handed over before Run, which
// must follow.
func New(ctx context.Context, cfg Config) (*Receiver, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, &ConfigError{err}
	}
	r := &Receiver{
		cfg: cfg, paths: make(map[string]*source), metrics: cfg.Metrics,
		bodies: semaphore.NewWeighted(maxBodies), refusals: refusals{log: cfg.Log},
	}
	if err := r.open(ctx); err != nil {
		r.close()
		return nil, err
	}
	r.metrics.watch(r)
	return r, nil
}

func (r *Receiver) open(ctx context.Context) error {
	intake, err := r.connect("intake")
	if err != nil {
		return err
	}
	if r.records, err = r.connect("records"); err != nil {
		return err
	}
	for i := range r.cfg.Sources {
		s, err := r.openSource(ctx, &r.cfg.Sources[i], intake)
		if err != nil {
			err = fmt.Errorf("source %s: %w", r.cfg.Sources[i].Path, err)
			if _, wrong := errors.AsType[*ConfigError](err); wrong {
				err = &ConfigError{err} // it says of which source and target
			}
			return err
		}
		r.sources = append(r.sources, s)
		r.paths[s.path] = s
	}
	if err := r.tellLeftOver(ctx); err != nil {
		return err
	}
	if r.cfg.Upstream != "" {
		r.upstream = newUpstream(r.cfg.Upstream, r.cfg.TrustedProxies, r.cfg.Log).handle
	}
	r.server = r.newServer()
	if r.cfg.NoListener {
		return nil
	}
	if err := r.listen(); err != nil {
		return fmt.Errorf("listen on %s: %w", r.cfg.Listen, err)
	}
	return nil
}

func (r *Receiver) connect(name string) (jetstream.JetStream, error) {
	conn, err := r.cfg.Connect("staffetta " + name)
	if err != nil {
		return nil, err
	}
	r.conns = append(r.conns, conn)
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	return js, nil
}

func (r *Receiver) openSource(ctx context.Context, c *Source, intake jetstream.JetStream) (*source, error) {
	verifier, err := staffetta.NewVerifier(c.Verify, c.Keys)
	if err != nil {
		return nil, &ConfigError{err}
	}
	s := &source{name: c.Name, path: c.Path, verifier: verifier, allow: c.Allow}
	s.journal = newJournal(c.Name, intake, r.records, r.cfg.KeyBound/len(r.cfg.Sources), r.cfg.Log)
	if err := s.journal.load(ctx); err != nil {
		return nil, err
	}
	for i := range c.To {
		f, err := r.openFeed(ctx, s, c, &c.To[i])
		if f != nil {
			s.feeds = append(s.feeds, f)
		}
		if err != nil {
			return s, fmt.Errorf("target %s: %w", c.To[i].Name, err)
		}
	}
	return s, nil
}

func (r *Receiver) openFeed(ctx context.Context, s *source, c *Source, t *Target) (*feed, error) {
	f := &feed{source: s.name, target: t.Name, kind: t.kind(), journal: s.journal, records: r.records}
	batch, err := f.openHandler(t, c)
	if err != nil {
		return nil, &ConfigError{err}
	}
	order := c.feedOrder(batch > 1)
	if order == sender.OrderKey {
		f.pointer, _ = parsePointer(c.OrderKey)
	}
	js, err := r.connect("target " + f.id())
	if err != nil {
		return f, err
	}
	f.feed, err = sender.NewFeed(sender.FeedConfig{
		Name: s.name + feedSeparator + t.Name, Workspace: Workspace, Endpoint: f.id(), JetStream: js,
		Stream: staffetta.JournalStream, Subject: staffetta.JournalSubject(s.name), Split: f.split, Target: f,
		Order: order, Concurrency: t.Concurrency, Rate: t.Rate, Batch: batch, Backoff: t.Backoff, MaxAge: r.cfg.MaxAge,
		Attempted: r.cfg.Attempted, Log: r.cfg.Log,
	})
	if err != nil {
		return f, err
	}
	return f, f.feed.Load(ctx)
}

// tellLeftOver warns of events whose source is no longer configured: nothing hands them over.
func (r *Receiver) tellLeftOver(ctx context.Context) error {
	stream, err := r.records.Stream(ctx, staffetta.JournalStream)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(staffetta.JournalSubjects))
	if err != nil {
		return fmt.Errorf("read the state of the journal: %w", err)
	}
	for _, s := range r.sources {
		delete(info.State.Subjects, s.journal.subject)
	}
	for subject, blocks := range info.State.Subjects {
		r.cfg.Log.Warn().Str("source", subject[len(staffetta.JournalSubject("")):]).Uint64("blocks", blocks).
			Msg("the store holds events of a source that is not configured; configure it again to hand them over")
	}
	return nil
}

// Addr is the address that is bound; nil without a listener.
func (r *Receiver) Addr() net.Addr {
	if r.listener == nil {
		return nil
	}
	return r.listener.Addr()
}

// Ready says why webhooks cannot be taken now, or nil.
func (r *Receiver) Ready() error {
	if r.full.Load() {
		return errFull
	}
	return r.cfg.Accepting()
}

var errFull = errors.New("the store is full; webhooks are taken again once some are handed over")

// Run takes webhooks and hands their events over until ctx ends. Then it lets the requests under way
// end, stores what came, lets the attempts in flight end, and returns when all that it started has
// ended. What was not handed over stays in the store.
func (r *Receiver) Run(ctx context.Context) error {
	defer r.close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	storing, stopStoring := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStoring()
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var journals, feeds, keepers sync.WaitGroup
	report := func(err error) {
		if err != nil {
			fail(err)
		}
	}
	for _, s := range r.sources {
		journals.Go(func() { report(s.journal.run(storing)) })
		keepers.Go(func() { s.journal.keepKeys(behind) })
		for _, f := range s.feeds {
			feeds.Go(func() { report(f.feed.Run(storing)) })
		}
	}
	keepers.Go(func() { r.keepHouse(behind) })
	err := r.serveUntil(ctx)
	stopStoring()
	journals.Wait()
	feeds.Wait()
	stop()
	keepers.Wait()
	r.refusals.flush()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// close ends the targets and the connections to the store.
func (r *Receiver) close() {
	for _, s := range r.sources {
		for _, f := range s.feeds {
			f.handler.close()
		}
	}
	for _, conn := range r.conns {
		conn.Close()
	}
}

// Targets lists the ids of all targets, as <source>.<target>.
func (r *Receiver) Targets() (ids []string) {
	for _, s := range r.sources {
		for _, f := range s.feeds {
			ids = append(ids, f.id())
		}
	}
	return ids
}
