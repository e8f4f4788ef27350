package receiver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
)

const (
	// upstreamHead bounds the wait for the head of the upstream's answer; what follows may take its time.
	upstreamHead = 60 * time.Second
	// upstreamIdle is how long a connection to it stays open unused, upstreamConns how many there may be.
	upstreamIdle  = 30 * time.Second
	upstreamConns = 1000
)

// newUpstream passes requests on to the server behind and its answers back, streamed, as a reverse
// proxy: without the headers of one connection, with X-Forwarded-For, -Host and -Proto. It answers 502
// where the server cannot be reached, 504 where it does not answer in time.
func newUpstream(target string, trusted []netip.Prefix, log zerolog.Logger) fasthttp.RequestHandler {
	to, _ := url.Parse(target) // checked by Config
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
			peer, _ := netip.ParseAddrPort(p.In.RemoteAddr)
			if contains(trusted, peer.Addr().Unmap()) {
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			}
			p.SetXForwarded()
			if proto := p.In.Header.Get("X-Forwarded-Proto"); contains(trusted, peer.Addr().Unmap()) && proto != "" {
				p.Out.Header.Set("X-Forwarded-Proto", proto)
			}
		},
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ResponseHeaderTimeout: upstreamHead, TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: upstreamIdle, MaxConnsPerHost: upstreamConns, MaxIdleConnsPerHost: 64, DisableCompression: true,
		},
		FlushInterval: -1,
		ErrorLog:      nil,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			status := http.StatusBadGateway
			var timeout net.Error
			switch {
			case errors.Is(err, context.Canceled):
			case errors.As(err, &timeout) && timeout.Timeout():
				status = http.StatusGatewayTimeout
			}
			log.Warn().Err(withoutURL(err)).Int("status", status).Msg("the upstream does not answer")
			http.Error(w, strings.ToLower(http.StatusText(status)), status)
		},
	}
	handler := fasthttpadaptor.NewFastHTTPHandler(proxy)
	return func(ctx *fasthttp.RequestCtx) {
		if _, err := url.ParseRequestURI(string(ctx.RequestURI())); err != nil { // the adaptor answers 500
			ctx.Error("the path of the request cannot be read\n", http.StatusBadRequest)
			return
		}
		// The adaptor's strings lie in buffers that the next request uses again.
		ctx.Request.SetRequestURIBytes(bytes.Clone(ctx.RequestURI()))
		handler(ctx)
	}
}

// withoutURL drops the request's URL, which may hold secrets, from an error.
func withoutURL(err error) error {
	if with, ok := errors.AsType[*url.Error](err); ok {
		return with.Err
	}
	return err
}
