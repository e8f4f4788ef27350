// Package embed runs the NATS server inside the process and lays out its streams and buckets. It is
// the only package that knows nats-server; everybody else speaks nats.go over a connection.
//
// The guarantee: one process owns a data folder at a time; what a stream acknowledged survives a
// kill of the process at any moment, and a power failure but for the last SyncInterval; a store that
// lost more than that does not start silently, it is refused with [ErrDamaged].
package embed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

var (
	// ErrLocked says that another process works on the data folder.
	ErrLocked = errors.New("data folder is in use")
	// ErrLayout says that the store was laid out differently: other shards, or by a newer version.
	ErrLayout = errors.New("data folder has another layout")
	// ErrDamaged says that something which had been stored is gone or cannot be read.
	ErrDamaged = errors.New("data folder is damaged")
)

// Sizes of the server that follow from what the relay puts through it.
const (
	// minMessage holds an event of 1 MiB with its headers, and the cursors of a shard; maxMessage is what
	// a connection may have pending without being cut off, several times over.
	minMessage = 2 << 20
	maxMessage = 16 << 20
	// A batch of 16 MiB of small events may go to one stream at once.
	maxStreamQueueMessages = 100_000
	maxStreamQueueBytes    = 256 << 20
	// maxPending is what one connection may lag behind before the server cuts it off.
	maxPending = 256 << 20
	// maxRequests is how many requests (a consumer for each of many endpoints) may wait at once.
	maxRequests = 100_000
)

// Config is what a server needs. Only Dir has no default.
type Config struct {
	// Dir is the data folder; it is made with mode 0700 where it is missing.
	Dir string
	// Layout is provisioned by Start. Its Shards are fixed at the folder's first start.
	Layout Layout
	// MaxMemory bounds streams in memory, in bytes. The layout has none, and the server does not count
	// what consumers keep. Default 1 GiB.
	MaxMemory int64
	// MaxStore is the outer bound of all streams, in bytes: at the bound even cursors are refused, so
	// refuse events well before it. Default 64 GiB, at most nine tenths of the file system.
	MaxStore int64
	// TrustCleanEnd skips reading the whole store at a start that follows a clean end. The reading finds
	// damaged messages, which the server would drop without a word, and takes about 1.3 s a GiB on two
	// cores; set it when a store of tens of GiB must start quickly.
	TrustCleanEnd bool
	// SyncInterval is how much a power failure may cost: files are synced this often. Default 1 s.
	SyncInterval time.Duration
	// SyncAlways syncs every message before it is acknowledged: a power failure costs nothing then, and
	// each message a write to the disk.
	SyncAlways bool
	// MaxMessage bounds one message with its headers, in bytes. Default 2 MiB, which holds an event of
	// the relay and the cursors of a shard; at most 16 MiB.
	MaxMessage int
	// Listen opens a client port, as host:port; empty opens none. It needs a Token.
	Listen string
	// Token is what clients of the port must present.
	Token string
	// Log gets the server's warnings and errors; never a payload.
	Log zerolog.Logger
}

func (c *Config) setDefaults() error {
	if c.Dir == "" {
		return errors.New("dir: name a data folder")
	}
	if c.Listen != "" && c.Token == "" {
		return errors.New("token: a client port needs one")
	}
	if c.MaxMemory < 0 || c.MaxStore < 0 || c.SyncInterval < 0 {
		return errors.New("max memory, max store, sync interval: must not be negative")
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = 1 << 30
	}
	if c.SyncInterval == 0 {
		c.SyncInterval = time.Second
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = minMessage
	}
	if c.MaxMessage < minMessage || c.MaxMessage > maxMessage {
		return fmt.Errorf("max message: must be between %d and %d", minMessage, maxMessage)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("find data folder: %w", err)
	}
	c.Dir = dir
	return nil
}

// Server is a running server that owns its data folder.
type Server struct {
	ns    *server.Server
	dir   string
	token string
	lock  *lock
	log   zerolog.Logger
	stop  sync.Once

	mu     sync.Mutex
	closed bool
	conns  []*nats.Conn
}

// Start takes the data folder, recovers what it holds and provisions the layout. It returns when
// the server can be used, which for a large store after a kill takes as long as reading it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	l, err := takeFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: cfg.Dir, token: cfg.Token, lock: l, log: cfg.Log}
	if err := s.start(ctx, cfg); err != nil {
		s.end(s.ns == nil && !l.unclean)
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, cfg Config) error {
	if cfg.MaxStore == 0 {
		_, size, err := diskSpace(cfg.Dir)
		if err != nil {
			return fmt.Errorf("measure file system of %s: %w", cfg.Dir, err)
		}
		cfg.MaxStore = min(64<<30, size/10*9)
	}
	layout, err := cfg.Layout.within(cfg.MaxStore)
	if err != nil {
		return err
	}
	plan, err := openPlan(cfg.Dir, layout)
	if err != nil {
		return err
	}
	if s.lock.unclean || !cfg.TrustCleanEnd {
		if err := checkBlocks(ctx, cfg.Dir, plan.Streams, false, cfg.Log); err != nil {
			return err
		}
	}
	if err := checkBlocks(ctx, cfg.Dir, plan.unlisted(layout.names()), true, cfg.Log); err != nil {
		return err
	}
	log := &serverLog{log: cfg.Log, recovering: s.lock.unclean}
	if err := s.boot(cfg, log); err != nil {
		return err
	}
	log.recovered()
	return s.layOut(ctx, layout, plan)
}

// layOut compares what the server recovered with what the folder must hold, and provisions the rest.
func (s *Server) layOut(ctx context.Context, layout Layout, plan *plan) error {
	nc, err := s.Connect("embed")
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	have, err := streamInfos(ctx, js)
	if err != nil {
		return err
	}
	if err := checkRecovered(s.dir, plan.Streams, have); err != nil {
		return err
	}
	if err := checkShards(layout, have[staffetta.CursorStream]); err != nil {
		return err
	}
	if plan.Streams == nil { // from here on the folder is of this many shards
		if err := plan.record([]string{}); err != nil {
			return err
		}
	}
	if err := forget(s.dir, layout.names(), have); err != nil {
		return err
	}
	if err := provision(ctx, js, layout, have); err != nil {
		return err
	}
	return plan.record(layout.names())
}

// boot starts the server itself.
func (s *Server) boot(cfg Config, log *serverLog) error {
	opts, err := options(cfg)
	if err != nil {
		return err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configure nats server: %w", err)
	}
	ns.SetLoggerV2(log, false, false, false)
	s.ns = ns
	ns.Start()
	if fatal := log.fatal(); fatal != "" {
		return fmt.Errorf("start nats server in %s: %s", cfg.Dir, fatal)
	}
	if !ns.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("start nats server in %s: it did not become ready", cfg.Dir)
	}
	return nil
}

func options(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName:                 "staffetta",
		DontListen:                 cfg.Listen == "",
		NoSigs:                     true,
		Authorization:              cfg.Token,
		MaxPayload:                 int32(cfg.MaxMessage),
		MaxPending:                 maxPending,
		StreamMaxBufferedMsgs:      maxStreamQueueMessages,
		StreamMaxBufferedSize:      maxStreamQueueBytes,
		JetStream:                  true,
		DisableJetStreamBanner:     true,
		StoreDir:                   cfg.Dir,
		SyncInterval:               cfg.SyncInterval,
		SyncAlways:                 cfg.SyncAlways,
		JetStreamMaxMemory:         cfg.MaxMemory,
		JetStreamMaxStore:          cfg.MaxStore,
		JetStreamRequestQueueLimit: maxRequests,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	opts.Host = host
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("listen: port %q is not a number", port)
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// Connect opens a connection inside the process. Shutdown closes it, should its owner not have.
func (s *Server) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("connect %s to the embedded nats server: %w", name, server.ErrServerNotRunning)
	}
	all := append([]nats.Option{
		nats.InProcessServer(s.ns),
		nats.Name(name),
		nats.Timeout(10 * time.Second),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.log.Error().Err(err).Str("connection", name).Msg("connection to the embedded nats server")
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when its owner closed it
				s.log.Warn().Err(err).Str("connection", name).Msg("connection to the embedded nats server was cut; connecting again")
			}
		}),
	}, opts...)
	if s.token != "" {
		all = append(all, nats.Token(s.token))
	}
	nc, err := nats.Connect(nats.DefaultURL, all...)
	if err != nil {
		return nil, fmt.Errorf("connect %s to the embedded nats server: %w", name, err)
	}
	s.conns = append(s.conns, nc)
	return nc, nil
}

// ClientURL is where the client port listens; empty without one.
func (s *Server) ClientURL() string {
	if addr := s.ns.Addr(); addr != nil {
		return "nats://" + addr.String()
	}
	return ""
}

// Shutdown closes the connections, stops the server, waits until everything is written and gives
// the folder back. It may be called more than once.
func (s *Server) Shutdown() { s.end(true) }

// end leaves the folder marked as not cleanly closed where clean is false.
func (s *Server) end(clean bool) {
	s.stop.Do(func() {
		s.mu.Lock()
		s.closed = true
		conns := s.conns
		s.mu.Unlock()
		for _, nc := range conns {
			nc.Close()
		}
		if s.ns != nil {
			s.ns.Shutdown()
			s.ns.WaitForShutdown()
		}
		s.lock.release(clean)
	})
}
