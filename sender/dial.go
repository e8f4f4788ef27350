package sender

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"syscall"
	"time"
)

// peerConn is a connection of a pool. The pool of fasthttp makes it empty (its dial callback knows
// neither the attempt's context nor its deadline) and the first attempt that gets it dials. It
// counts what it cost, for the record of that attempt.
type peerConn struct {
	net.Conn          // what is written to and read from; nil before connect
	raw      net.Conn // the connection below TLS, the same as Conn without it

	remote                    string
	resolve, connect, secured time.Duration

	used bool // an attempt was made over it
	// whole says that the last answer was read to its end: the connection may be closed politely.
	whole bool

	// done and stop belong to the context that cuts this connection off, see watch.
	done <-chan struct{}
	stop func() bool
}

// Close ends the connection. After an answer that was cut short there is no TLS farewell: writing
// it could block on a peer that does not read.
func (c *peerConn) Close() error {
	if c.Conn == nil {
		return nil
	}
	if c.stop != nil {
		c.stop()
	}
	if c.whole {
		return c.Conn.Close()
	}
	return c.raw.Close()
}

// watch closes the connection when ctx ends, so that a stop does not wait for the deadline of an
// attempt. As the attempts of one process share a context, the watch is set once a connection, not
// once an attempt (BenchmarkAttempt). It reports false when the context of an attempt before has
// ended and the connection is closed or about to be.
func (c *peerConn) watch(ctx context.Context) bool {
	done := ctx.Done()
	if c.done == done {
		return true
	}
	if c.stop != nil && !c.stop() {
		return false
	}
	c.done, c.stop = done, nil
	if done != nil {
		raw := c.raw
		c.stop = context.AfterFunc(ctx, func() { _ = raw.Close() })
	}
	return true
}

// tlsError is a failure of the handshake.
type tlsError struct{ error }

func (e *tlsError) Unwrap() error { return e.error }

// open dials the host of the pool and secures the connection, all before deadline. Whatever it
// fails with, conn knows how long each step took.
func (c *Client) open(ctx context.Context, p *hostPool, deadline time.Time, conn *peerConn) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()

	start := time.Now()
	raw, err := c.cfg.Dial(traceResolve(ctx, conn), "tcp", p.hc.Addr)
	conn.connect = time.Since(start) - conn.resolve
	if err != nil {
		_, forbidden := errors.AsType[*forbiddenAddress](err)
		if e, ok := errors.AsType[*net.OpError](err); ok && e.Addr != nil && !forbidden {
			conn.remote = e.Addr.String()
		}
		return err
	}
	conn.remote = raw.RemoteAddr().String()
	if p.tls == nil {
		conn.Conn, conn.raw = raw, raw
		return nil
	}

	start = time.Now()
	secured := tls.Client(raw, p.tls)
	err = secured.HandshakeContext(ctx)
	conn.secured = time.Since(start)
	if err != nil {
		_ = raw.Close()
		return &tlsError{err}
	}
	conn.Conn, conn.raw = secured, raw
	return nil
}

// traceResolve makes the dialer tell how long the resolver took. It works inside package net, and
// calls back in the goroutine that dials.
func traceResolve(ctx context.Context, conn *peerConn) context.Context {
	var start time.Time
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { start = time.Now() },
		DNSDone:  func(httptrace.DNSDoneInfo) { conn.resolve = time.Since(start) },
	})
}

// guardedDialer is the dialer of the real network: Go's own resolver, which does not read odd
// spellings of an address (127.1, 0x7f.1, 2130706433) as the C library does, and the guard on the
// address of every connection. No proxy is ever used, whatever the environment says: the guard
// would see the proxy's address alone. Keep-alive probes are off, as idle connections last seconds.
func guardedDialer(g Guard, resolver *net.Resolver) *net.Dialer {
	if resolver == nil {
		resolver = &net.Resolver{PreferGo: true}
	}
	return &net.Dialer{
		Resolver:  resolver,
		KeepAlive: -1,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return &forbiddenAddress{kind: "not an address"}
			}
			return g.Check(target.Addr())
		},
	}
}
