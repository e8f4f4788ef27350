package receiver

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxBodies bounds the bytes of all bodies that are being read or stored at one time, bodyStep is how
	// much room one takes at a time, as it comes; a request that finds none within roomWait gets a 503.
	maxBodies = 256 << 20
	bodyStep  = 64 << 10
	roomWait  = 2 * time.Second
	// smallBody is what the server has read of a body by the time the handler runs: bodies up to it are
	// bounded by the number of connections alone.
	smallBody = 8 << 10
	// keptReading is how large the memory of a reading may be that is used again.
	keptReading = 64 << 10
)

// reading is the memory of one request that is being taken in. It is used again: what was taken is
// copied into a block by then (BenchmarkAck).
type reading struct {
	request Request
	bytes   []byte // the body
	text    []byte // one after another: address, URI, host, names and values of headers
	ends    []int  // of each of them
	held    int64  // room taken for the body
}

var reads = sync.Pool{New: func() any { return new(reading) }}

// done gives the memory and the room back.
func (x *reading) done(r *Receiver) {
	if x.held > 0 {
		r.bodies.Release(x.held)
	}
	if cap(x.bytes)+cap(x.text) > keptReading {
		*x = reading{}
	}
	clear(x.request.Header)
	*x = reading{request: Request{Header: x.request.Header[:0]}, bytes: x.bytes[:0], text: x.text[:0], ends: x.ends[:0]}
	reads.Put(x)
}

// body reads the request's body within its bound and within the room for all bodies. A reply without a
// status is none.
func (x *reading) body(ctx *fasthttp.RequestCtx, r *Receiver) reply {
	limit, length := r.cfg.MaxBody, ctx.Request.Header.ContentLength() // negative: chunked, or none
	if length > limit {
		return replyTooLarge
	}
	stream := ctx.RequestBodyStream()
	if stream == nil {
		x.request.Body = ctx.Request.Body()
		return reply{}
	}
	bound := smallBody
	for {
		x.bytes = slices.Grow(x.bytes, 512)
		n, err := stream.Read(x.bytes[len(x.bytes):min(cap(x.bytes), bound+1)])
		x.bytes = x.bytes[:len(x.bytes)+n]
		switch ended := errors.Is(err, io.EOF); {
		case err != nil && !ended, ended && length > len(x.bytes):
			ctx.SetConnectionClose()
			return replyIncomplete
		case len(x.bytes) > limit:
			return replyTooLarge
		case ended || length == len(x.bytes) && length > 0:
			x.request.Body = x.bytes
			return reply{}
		}
		for ; len(x.bytes) > bound; bound += bodyStep {
			if !r.room() {
				ctx.SetConnectionClose()
				return replyUnavailable
			}
			x.held += bodyStep
		}
	}
}

// room takes the next step's bytes.
func (r *Receiver) room() bool {
	wait, cancel := context.WithTimeout(context.Background(), roomWait)
	defer cancel()
	return r.bodies.Acquire(wait, bodyStep) == nil
}

// head reads what a target gets of the head: not the headers of one connection, nor those that the
// Connection header names.
func (x *reading) head(ctx *fasthttp.RequestCtx, address netip.Addr) {
	add := func(text []byte) {
		x.text = append(x.text, text...)
		x.ends = append(x.ends, len(x.text))
	}
	if address.IsValid() {
		x.text = address.AppendTo(x.text)
	}
	add(nil)
	add(ctx.RequestURI())
	add(ctx.Host())
	named := ctx.Request.Header.Peek(fasthttp.HeaderConnection)
	for key, value := range ctx.Request.Header.All() {
		if !isHopByHop(key) && !names(named, key) {
			add(key)
			add(value)
		}
	}
	text, at := string(x.text), 0
	next := func() (part string) {
		part, at = text[at:x.ends[0]], x.ends[0]
		x.ends = x.ends[1:]
		return part
	}
	ends := x.ends
	q := &x.request
	q.Method, q.Remote, q.URI, q.Host = fasthttp.MethodPost, next(), next(), next()
	for len(x.ends) > 0 {
		q.Header = append(q.Header, HeaderField{next(), next()})
	}
	x.ends = ends
}
