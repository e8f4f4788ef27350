package receiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxLeft is how much is read of a body that is not wanted, beyond the bound of one.
	maxLeft = 1 << 20

	// maxHead bounds a request's head.
	maxHead        = 16 << 10
	maxConnections = 8192
	// readTimeout bounds the reading of one request, from its first byte to the last of its body.
	readTimeout = 30 * time.Second
	idleTimeout = 2 * time.Minute
)

// newServer is the intake's server. The bench holds a receiver against a bare one with the same settings
// (bench/bare.go): change both.
func (r *Receiver) newServer() *fasthttp.Server {
	s := &fasthttp.Server{
		Handler:            r.handle,
		ErrorHandler:       r.refuse,
		Name:               "Staffetta",
		ReadBufferSize:     maxHead,
		Concurrency:        maxConnections,
		ReadTimeout:        readTimeout,
		WriteTimeout:       readTimeout,
		IdleTimeout:        idleTimeout,
		MaxRequestBodySize: r.cfg.MaxBody,
		StreamRequestBody:  true,
		CloseOnShutdown:    true,
		TCPKeepalive:       true,
		// A form would be read before its sender is known, and what is large of it into files.
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		Logger:                       silence{},
	}
	if r.upstream != nil { // what passes through may take its time
		s.WriteTimeout = 0
	}
	return s
}

// silence drops what fasthttp would print about broken requests; refuse has answered them.
type silence struct{}

func (silence) Printf(string, ...any) {}

// listen binds the address, with TLS where there is a certificate.
func (r *Receiver) listen() error {
	if r.listener = r.cfg.Listener; r.listener == nil {
		l, err := net.Listen("tcp", r.cfg.Listen)
		if err != nil {
			return err
		}
		r.listener = l
	}
	if r.cfg.TLSCert == "" {
		return nil
	}
	pair, err := loadCertificate(r.cfg.TLSCert, r.cfg.TLSKey, r.cfg.Log)
	if err != nil {
		return errors.Join(err, r.listener.Close())
	}
	r.listener = tls.NewListener(r.listener, &tls.Config{
		GetCertificate: pair.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	return nil
}

// serveUntil takes requests until ctx ends, then lets those under way end.
func (r *Receiver) serveUntil(ctx context.Context) error {
	if r.listener == nil {
		<-ctx.Done()
		return nil
	}
	failed := make(chan error, 1)
	go func() { failed <- r.server.Serve(r.listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout+time.Second)
	defer cancel()
	err := r.server.ShutdownWithContext(bounded)
	_ = r.listener.Close() // the server may come to it only now: then the shutdown did not know of it
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // a sender that is still sending: its event was not acknowledged
	}
	return errors.Join(err, <-failed)
}

// isAmbiguous says that a request has two lengths: what stands between us and the sender may go by
// the other one, and take the rest for another request.
func isAmbiguous(h *fasthttp.RequestHeader) bool {
	return h.ContentLength() == -1 && bytes.Contains(bytes.ToLower(h.RawHeaders()), []byte("content-length"))
}

// leaveBody sees to what nobody has read of the body: fasthttp would take it for the next request.
// Some of it is read, so that the sender comes to read the answer.
func leaveBody(ctx *fasthttp.RequestCtx, maxBody int) {
	stream := ctx.RequestBodyStream()
	if stream == nil || ctx.Response.ConnectionClose() {
		return
	}
	if _, err := io.CopyN(io.Discard, stream, int64(maxBody)+maxLeft); !errors.Is(err, io.EOF) {
		ctx.SetConnectionClose()
	}
}

// refuse answers what is not a request that fasthttp can read.
func (r *Receiver) refuse(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &small):
		r.answer(ctx, replyHeaders)
	case errors.As(err, &timeout) && timeout.Timeout():
		r.answer(ctx, replySlow)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		r.answer(ctx, replyTooLarge)
	default:
		r.answer(ctx, replyMalformed)
	}
	ctx.SetConnectionClose()
}

func tcpAddress(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return nil
	}
	return net.TCPAddrFromAddrPort(a)
}
