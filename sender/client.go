package sender

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// ClientConfig of a Client. Its zero value is a client for the public internet.
type ClientConfig struct {
	// Deadline of one attempt, from the first byte dialled to the last byte of the response head:
	// DNS, TCP, TLS and sending are included. Raise it for endpoints that work before they answer.
	// Default 5 s; 10 ms to 5 min.
	Deadline time.Duration
	// UserAgent of every request; give it the version. Default "Staffetta".
	UserAgent string
	// Guard says which addresses may be dialled. Its zero value refuses every special-purpose
	// address; open it for a relay inside a private network.
	Guard Guard
	// InFlightPerWorkspace bounds the attempts that one workspace has in flight; more of them wait,
	// and their deadline does not run yet. Every one may hold a descriptor and about 10 KiB. No
	// slot is shared between workspaces. Default 1000.
	InFlightPerWorkspace int
	// Dial replaces the guarded dialer, and with it Guard and Resolver: for connections in memory.
	// Default nil: TCP behind the guard.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver replaces Go's own. One that uses the C library reads odd spellings of addresses;
	// the guard sees what they lead to. Default nil: Go's, with the system's configuration.
	Resolver *net.Resolver
	// TLSConfig is the base for https, for private roots or a client certificate. Default nil: the
	// system's roots.
	TLSConfig *tls.Config
	// IdleConnTimeout is how long an idle connection is kept for the next attempt. Lower it where
	// peers close theirs sooner; above 10 s they mostly do. Default and most 10 s.
	IdleConnTimeout time.Duration
}

const maxIdleConnTimeout = 10 * time.Second

func (c *ClientConfig) setDefaults() error {
	if c.Deadline == 0 {
		c.Deadline = 5 * time.Second
	}
	if c.UserAgent == "" {
		c.UserAgent = "Staffetta"
	}
	if c.InFlightPerWorkspace == 0 {
		c.InFlightPerWorkspace = 1000
	}
	if c.IdleConnTimeout == 0 {
		c.IdleConnTimeout = maxIdleConnTimeout
	}
	if c.Dial == nil {
		c.Dial = guardedDialer(c.Guard, c.Resolver).DialContext
	}
	switch {
	case c.Deadline < 10*time.Millisecond || c.Deadline > 5*time.Minute:
		return errors.New("client config: Deadline must be between 10ms and 5m")
	case c.InFlightPerWorkspace < 0:
		return errors.New("client config: InFlightPerWorkspace must be above 0")
	case c.IdleConnTimeout < 0 || c.IdleConnTimeout > maxIdleConnTimeout:
		return errors.New("client config: IdleConnTimeout must be above 0 and at most 10s")
	case breaksHeader(c.UserAgent):
		return errors.New("client config: UserAgent has a control character")
	}
	return nil
}

// Client posts events to endpoints. It is safe for concurrent use.
type Client struct {
	cfg ClientConfig
	// sessions resumes TLS, so that a connection after a pause costs no second full handshake.
	sessions  tls.ClientSessionCache
	exchanges sync.Pool // of *exchange

	mu      sync.Mutex
	tenants map[string]*tenant
}

// tenant is what a workspace shares among its endpoints and with nobody else.
type tenant struct {
	name  string
	slots chan struct{} // one for each attempt in flight
	pools map[string]*hostPool
}

// hostPool keeps the connections of a workspace to one scheme, host and port.
type hostPool struct {
	key string
	// hc keeps connections and nothing else. Its Do would take a body beyond the limit, or cut
	// off, for a failure, and knows neither a context nor one deadline for all steps.
	hc   fasthttp.HostClient
	tls  *tls.Config // nil for http
	refs int         // endpoints that use it; the client's lock guards it
}

// NewClient checks the configuration. It starts nothing; a pool that has connections keeps a
// goroutine that closes idle ones, until they are gone.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	c := &Client{
		cfg:      cfg,
		sessions: tls.NewLRUClientSessionCache(1024),
		tenants:  make(map[string]*tenant),
	}
	c.exchanges.New = func() any { return newExchange() }
	return c, nil
}

// CloseIdle closes every connection that no attempt is using.
func (c *Client) CloseIdle() {
	c.mu.Lock()
	var pools []*hostPool
	for _, t := range c.tenants {
		for _, p := range t.pools {
			pools = append(pools, p)
		}
	}
	c.mu.Unlock()
	for _, p := range pools {
		p.hc.CloseIdleConnections()
	}
}

// Endpoint prepares what every attempt at e has in common. When e is changed make a new one
// first and Close the old one then, so that the connections stay; when it is deleted, Close it.
func (c *Client) Endpoint(e staffetta.Endpoint) (*Endpoint, error) {
	if err := staffetta.ValidateURL(e.URL); err != nil {
		return nil, fmt.Errorf("prepare endpoint: %w", err)
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, fmt.Errorf("prepare endpoint: %w", err)
	}
	prepared := &Endpoint{client: c}
	if err := prepared.keys(e.Keys); err != nil {
		return nil, fmt.Errorf("prepare endpoint: %w", err)
	}
	if err := prepared.headers(e, c.cfg.UserAgent); err != nil {
		return nil, fmt.Errorf("prepare endpoint: %w", err)
	}
	prepared.tenant, prepared.pool = c.retain(e.Workspace, u)
	return prepared, nil
}

// retain finds or makes the pool of a workspace for the URL's host.
func (c *Client) retain(workspace string, u *url.URL) (*tenant, *hostPool) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	address := net.JoinHostPort(u.Hostname(), port)
	key := u.Scheme + "://" + strings.ToLower(address)

	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tenants[workspace]
	if t == nil {
		t = &tenant{
			name:  workspace,
			slots: make(chan struct{}, c.cfg.InFlightPerWorkspace),
			pools: make(map[string]*hostPool),
		}
		c.tenants[workspace] = t
	}
	p := t.pools[key]
	if p == nil {
		p = c.newPool(key, address, u)
		t.pools[key] = p
	}
	p.refs++
	return t, p
}

func (c *Client) newPool(key, address string, u *url.URL) *hostPool {
	p := &hostPool{key: key}
	p.hc.Addr = address
	p.hc.DialTimeout = func(string, time.Duration) (net.Conn, error) { return &peerConn{}, nil }
	// The slots bound the connections in use. While idle ones are being closed they count too.
	p.hc.MaxConns = 2 * c.cfg.InFlightPerWorkspace
	p.hc.MaxIdleConnDuration = c.cfg.IdleConnTimeout
	// The one used last is the least likely to have been closed by the peer.
	p.hc.ConnPoolStrategy = fasthttp.LIFO
	if u.Scheme != "https" {
		return p
	}
	if p.tls = c.cfg.TLSConfig.Clone(); p.tls == nil {
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if p.tls.ServerName == "" {
		p.tls.ServerName = strings.TrimSuffix(u.Hostname(), ".")
	}
	if p.tls.ClientSessionCache == nil {
		p.tls.ClientSessionCache = c.sessions
	}
	p.tls.NextProtos = []string{"http/1.1"}
	return p
}

// release gives a pool back; the last endpoint's takes its connections with it, and the last pool
// its workspace.
func (c *Client) release(t *tenant, p *hostPool) {
	c.mu.Lock()
	p.refs--
	last := p.refs == 0
	if last {
		delete(t.pools, p.key)
		if len(t.pools) == 0 {
			delete(c.tenants, t.name)
		}
	}
	c.mu.Unlock()
	if last {
		p.hc.CloseIdleConnections()
	}
}

// acquire takes a slot of the workspace; it reports false when ctx ends before there is one.
func (t *tenant) acquire(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case t.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case t.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *tenant) release() { <-t.slots }

// breaksHeader reports whether a text would end or break a header line.
func breaksHeader(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0
}
