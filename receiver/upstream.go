package receiver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
)

const (
	// upstreamHead bounds the wait for the head of the upstream's answer; what follows may take its time.
	upstreamHead = 60 * time.Second
	// upstreamIdle is how long a connection to it stays open unused, upstreamConns how many there may be.
	upstreamIdle  = 30 * time.Second
	upstreamConns = 1000
	// upstreamBody bounds the reading of a request's body.
	upstreamBody = time.Hour
	// upstreamRest is how long what is left of a body is waited for once there is an answer, maxEarly how
	// much of an answer that comes before it is passed back.
	upstreamRest = 250 * time.Millisecond
	maxEarly     = 1 << 20
)

// upstream passes requests on to the server behind and its answers back, streamed, as a reverse proxy
// does: without the headers of one connection, with X-Forwarded-For, -Host and -Proto. It answers 502
// where the server cannot be reached, 504 where it does not answer in time.
type upstream struct {
	to        *url.URL
	trusted   []netip.Prefix
	transport http.RoundTripper
	log       zerolog.Logger
}

func newUpstream(target string, trusted []netip.Prefix, log zerolog.Logger) *upstream {
	to, _ := url.Parse(target) // checked by Config
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &upstream{to: to, trusted: trusted, log: log, transport: &http.Transport{
		DialContext: dialer.DialContext, ResponseHeaderTimeout: upstreamHead, TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout: upstreamIdle, MaxConnsPerHost: upstreamConns, MaxIdleConnsPerHost: 64, DisableCompression: true,
	}}
}

// handle passes one request on.
func (u *upstream) handle(ctx *fasthttp.RequestCtx) {
	// The transport may read the body for longer than it is ours.
	body := &lentBody{conn: ctx.Conn(), from: ctx.RequestBodyStream(), ended: make(chan struct{})}
	defer body.takeBack()
	request, err := u.request(ctx, body)
	if err != nil {
		ctx.SetConnectionClose()
		ctx.Error("the request cannot be passed on\n", http.StatusBadRequest)
		return
	}
	if err := ctx.Conn().SetReadDeadline(time.Now().Add(upstreamBody)); err != nil {
		u.fail(ctx, err)
		return
	}
	answer, err := u.transport.RoundTrip(request)
	if err != nil {
		u.fail(ctx, err)
		return
	}
	if request.Body != nil && !body.endsWithin(upstreamRest) {
		u.answerEarly(ctx, answer)
		return
	}
	u.answer(ctx, answer)
}

// answer passes the answer back.
func (u *upstream) answer(ctx *fasthttp.RequestCtx, answer *http.Response) {
	upgraded := copyAnswer(ctx, answer)
	switch {
	case upgraded:
		u.tunnel(ctx, answer)
	case ctx.IsHead() || answer.StatusCode == http.StatusNotModified || answer.StatusCode == http.StatusNoContent:
		_ = answer.Body.Close()
		ctx.Response.SkipBody = true
		if answer.ContentLength >= 0 {
			ctx.Response.Header.SetContentLength(int(answer.ContentLength))
		}
	default:
		ctx.SetBodyStream(answer.Body, int(answer.ContentLength)) // -1: in chunks, as they come
	}
}

// answerEarly passes back an answer that came while the body was still on its way: its beginning, which
// is all of an error's, and the end of the connection.
func (u *upstream) answerEarly(ctx *fasthttp.RequestCtx, answer *http.Response) {
	ctx.SetConnectionClose()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxEarly+1))
	_ = answer.Body.Close()
	if err != nil || len(text) > maxEarly || answer.StatusCode == http.StatusSwitchingProtocols {
		u.fail(ctx, errors.New("it answered while the request was still on its way"))
		return
	}
	copyAnswer(ctx, answer)
	ctx.SetBody(text)
}

// copyAnswer sets status and headers; it reports whether the ends change to another protocol.
func copyAnswer(ctx *fasthttp.RequestCtx, answer *http.Response) (upgraded bool) {
	h := &ctx.Response.Header
	h.SetNoDefaultContentType(true)
	upgraded = answer.StatusCode == http.StatusSwitchingProtocols
	named := strings.Join(answer.Header.Values("Connection"), ",")
	for name, values := range answer.Header {
		if isHopByHop([]byte(name)) && !upgraded || names([]byte(named), []byte(name)) && !upgraded {
			continue
		}
		for _, v := range values {
			h.Add(name, v)
		}
	}
	ctx.SetStatusCode(answer.StatusCode)
	return upgraded
}

// lentBody is a request's body while the transport reads it: it is the server's again once the handler
// has ended, whether the transport is done with it or not.
type lentBody struct {
	conn  net.Conn
	ended chan struct{} // closed at the body's end

	mu   sync.Mutex
	from io.Reader // nil once it was taken back
	over bool
}

func (b *lentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over:
		return 0, io.EOF
	case b.from == nil:
		return 0, errors.New("the request has ended")
	}
	n, err := b.from.Read(p)
	if errors.Is(err, io.EOF) {
		b.over = true
		close(b.ended)
	}
	return n, err
}

// endsWithin waits for the body's end.
func (b *lentBody) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-b.ended:
		return true
	case <-timer.C:
		return false
	}
}

// takeBack ends the reading. A body that was not read to its end ends its connection too.
func (b *lentBody) takeBack() {
	select {
	case <-b.ended:
	default:
		_ = b.conn.SetReadDeadline(time.Now()) // of a reading under way
	}
	b.mu.Lock()
	b.from = nil
	b.mu.Unlock()
}

// request is the request as the server behind gets it.
func (u *upstream) request(ctx *fasthttp.RequestCtx, lent *lentBody) (*http.Request, error) {
	// The server's own strings lie in buffers that the next request uses again.
	asked, err := url.ParseRequestURI(string(ctx.RequestURI()))
	if err != nil {
		return nil, err
	}
	asked.Scheme, asked.Host = u.to.Scheme, u.to.Host
	if base := strings.TrimSuffix(u.to.EscapedPath(), "/"); base != "" {
		if asked, err = url.Parse(u.to.Scheme + "://" + u.to.Host + base + asked.RequestURI()); err != nil {
			return nil, err
		}
	}
	var body io.Reader
	length := int64(ctx.Request.Header.ContentLength()) // -1: in chunks, -2: none
	switch {
	case length == -2 || length == 0:
		close(lent.ended)
	case lent.from != nil:
		body = lent
	default:
		body = bytes.NewReader(bytes.Clone(ctx.Request.Body()))
		close(lent.ended)
	}
	request, err := http.NewRequestWithContext(context.Background(), string(ctx.Method()), asked.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.ContentLength = length
	}
	request.Host = string(ctx.Host())
	u.copyHead(request.Header, ctx)
	return request, nil
}

// copyHead gives the end-to-end headers, and says where the request came from.
func (u *upstream) copyHead(to http.Header, ctx *fasthttp.RequestCtx) {
	from := &ctx.Request.Header
	named := from.Peek(fasthttp.HeaderConnection)
	for key, value := range from.All() {
		if !isHopByHop(key) && !names(named, key) {
			name := http.CanonicalHeaderKey(string(key))
			to[name] = append(to[name], string(value))
		}
	}
	if protocol := from.Peek(fasthttp.HeaderUpgrade); len(protocol) > 0 && names(named, []byte("Upgrade")) {
		to.Set("Connection", "Upgrade")
		to.Set("Upgrade", string(protocol))
	}
	if _, ok := to["User-Agent"]; !ok {
		to["User-Agent"] = nil // the transport would add its own
	}
	peer := addressOf(ctx.RemoteAddr())
	proto := "http"
	if ctx.IsTLS() {
		proto = "https"
	}
	if contains(u.trusted, peer) {
		if p := to.Get("X-Forwarded-Proto"); p != "" {
			proto = p
		}
	} else {
		to.Del("X-Forwarded-For")
		to.Del("X-Forwarded-Host")
	}
	if peer.IsValid() {
		to.Set("X-Forwarded-For", strings.Join(append(to.Values("X-Forwarded-For"), peer.String()), ", "))
	}
	if to.Get("X-Forwarded-Host") == "" {
		to.Set("X-Forwarded-Host", string(ctx.Host()))
	}
	to.Set("X-Forwarded-Proto", proto)
}

// fail answers for a server that does not.
func (u *upstream) fail(ctx *fasthttp.RequestCtx, err error) {
	status := http.StatusBadGateway
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	if with, ok := errors.AsType[*url.Error](err); ok { // the URL may hold secrets
		err = with.Err
	}
	u.log.Warn().Err(err).Int("status", status).Msg("the upstream does not answer")
	ctx.SetConnectionClose() // what is left of the body is not to be taken for a request
	ctx.Error(strings.ToLower(http.StatusText(status))+"\n", status)
}

// tunnel passes bytes both ways once both ends have changed to another protocol.
func (u *upstream) tunnel(ctx *fasthttp.RequestCtx, answer *http.Response) {
	behind, ok := answer.Body.(io.ReadWriteCloser)
	if !ok {
		_ = answer.Body.Close()
		u.fail(ctx, errors.New("it switched protocols without a connection"))
		return
	}
	ctx.Response.SkipBody = true
	ctx.Hijack(func(client net.Conn) {
		_ = client.SetDeadline(time.Time{}) // that of the request's head is over
		ended := make(chan struct{}, 2)
		pass := func(to io.Writer, from io.Reader) {
			_, _ = io.Copy(to, from) // either end may go at any time
			ended <- struct{}{}
		}
		go pass(behind, client)
		go pass(client, behind)
		<-ended
		_ = behind.Close()
		_ = client.Close()
		<-ended
	})
}
