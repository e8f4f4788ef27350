package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/receiver"
	"github.com/staffetta-relay/staffetta/relay"
)

// receiverSettings is what a receiver is wired from.
type receiverSettings struct {
	config        receiver.Config
	adminListen   string
	adminListener net.Listener // in place of adminListen where it is set
	data          string
	power         bool
	maxBytes      int64
	syncInterval  time.Duration // of the store; 0 is its default
	deadLetterAge time.Duration // 0 is the layout's default
	logMode       relay.LogMode
	logAge        time.Duration // 0 is the layout's default
	adminKey      string
	adminKeyMade  bool
	log           zerolog.Logger
}

// defaultMaxBytes is what the journal may hold where nothing else is said.
const defaultMaxBytes = 16 << 30

// store is the bound of the whole store that follows from the journal's.
func (c *receiverSettings) store() (maxStore int64, err error) {
	if c.maxBytes != 0 {
		return (c.maxBytes + 4) / 5 * 8, nil
	}
	size, err := embed.FileSystemSize(c.data)
	if err != nil {
		return 0, err
	}
	return min(defaultMaxBytes/5*8, size/10*8), nil
}

// runReceiver wires a receiver together and runs it until ctx ends; running is called once it takes
// webhooks. What was started is stopped in the order of the code, backwards: the intake, the attempts in
// flight, the queue.
func runReceiver(ctx context.Context, c receiverSettings, running func(r *receiver.Receiver, admin net.Addr)) error {
	maxStore, err := c.store()
	if err != nil {
		return err
	}
	server, err := embed.Start(ctx, embed.Config{
		Dir: c.data, Layout: embed.Layout{
			Journal: true, JournalBytes: c.maxBytes, DeadLetterAge: c.deadLetterAge, AttemptAge: c.logAge,
		},
		MaxStore: maxStore, SyncInterval: c.syncInterval, SyncAlways: c.power,
		MaxMessage: max(2<<20, c.config.MaxBody+64<<10), Log: c.log,
	})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	gate := newGate(server, c.log)

	records, err := server.Connect("staffetta log")
	if err != nil {
		return err
	}
	defer records.Close()
	recordStream, err := jetstream.New(records)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	attempts, err := relay.OpenAttemptLog(ctx, relay.AttemptLogConfig{
		JetStream: recordStream, Mode: c.logMode, Retention: c.logAge, Room: gate.room, Log: c.log,
	})
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	c.config.Connect, c.config.Accepting, c.config.Attempted = server.Connect, gate.accepting, attempts.Record
	c.config.Metrics = receiver.NewMetrics()
	metrics.MustRegister(c.config.Metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metricsPage := promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})

	intake, err := receiver.New(ctx, c.config)
	if err != nil {
		return err
	}
	intake.ServeProbes(metricsPage)
	allowed := func(*http.Request) bool { return true } // the admin API has asked for the key
	handler, err := intake.AdminHandler(receiver.AdminConfig{
		Key: c.adminKey, Attempts: relay.NewAttemptHandler(attempts, receiver.Workspace, allowed, c.log), Metrics: metricsPage,
	})
	if err != nil {
		return err
	}
	admin, err := newAdminServer(c.adminListen, c.adminListener, handler)
	if err != nil {
		return err
	}

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { gate.watch(behind) })
	wg.Go(func() {
		if err := admin.serve(behind); err != nil {
			fail(err)
		}
	})
	wg.Go(func() {
		if err := attempts.Run(behind); err != nil {
			fail(err)
		}
	})
	if running != nil {
		running(intake, admin.listener.Addr())
	}
	c.log.Info().Str("version", version).Stringer("address", intake.Addr()).Stringer("admin", admin.listener.Addr()).Str("data", c.data).Msg("receiver started")
	err = intake.Run(ctx)
	stop()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	c.log.Info().Err(err).Msg("receiver stopped")
	return err
}

// adminServer serves the admin API.
type adminServer struct {
	http     *http.Server
	listener net.Listener
}

func newAdminServer(address string, l net.Listener, h http.Handler) (*adminServer, error) {
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", address); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	return &adminServer{&http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}, l}, nil
}

// serve answers until ctx ends, then lets requests under way end, for a little while.
func (s *adminServer) serve(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if s.http.Shutdown(bounded) != nil {
		_ = s.http.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
