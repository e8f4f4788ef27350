package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// BareServer is what the scenario receiver calls the bench's own program with, to have the server that a
// receiver is held against in a process of its own, as the receiver is in one. It is in no list, for it finds
// nothing out by itself.
const BareServer = "bare-server"

// bareListening is what the server says once it listens.
type bareListening struct {
	// Address is its host and port.
	Address string `json:"address"`
}

// bareStops is how long the server waits at its end for the answers under way.
const bareStops = time.Second

// RunBareServer is the server's process: it listens at the target of the options, which must be on the loopback,
// says its address on stdout as a line of JSON, and answers every request with 200. It ends with ctx and with
// stdin, whose other end the bench holds: when the bench is killed, that is closed for it. The error is a
// UsageError where the options make no sense.
func RunBareServer(ctx context.Context, o Options, stdin io.Reader, stdout io.Writer) error {
	u, err := loopbackTarget(o.Target, "where to listen on the loopback, such as http://127.0.0.1:0")
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", u.Host)
	if err != nil {
		return fmt.Errorf("start the bare server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // may outlive this function, where ctx ends first: nothing but the process's end breaks a read off
		defer cancel()
		_, _ = io.Copy(io.Discard, stdin)
	}()
	server := newBareServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	err = json.NewEncoder(stdout).Encode(bareListening{Address: l.Addr().String()})
	if err == nil {
		select {
		case err = <-served:
			return fmt.Errorf("serve: %w", errors.Join(err, l.Close()))
		case <-ctx.Done():
		}
	}
	bounded, stopped := context.WithTimeout(context.WithoutCancel(ctx), bareStops)
	defer stopped()
	_ = server.ShutdownWithContext(bounded) // who waits for an answer after that has gone itself
	_ = l.Close()                           // the server may come to it only now: then the shutdown did not know of it
	return errors.Join(err, <-served)
}

// newBareServer has the settings of the receiver's intake (receiver/server.go), so that all that a receiver
// does besides is to verify, to store and to hand on.
func newBareServer() *fasthttp.Server {
	return &fasthttp.Server{
		Handler:                      answerBare,
		Name:                         "Staffetta",
		ReadBufferSize:               16 << 10,
		Concurrency:                  8192,
		ReadTimeout:                  30 * time.Second,
		WriteTimeout:                 30 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxRequestBodySize:           1 << 20,
		StreamRequestBody:            true,
		CloseOnShutdown:              true,
		TCPKeepalive:                 true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		Logger:                       silent{},
	}
}

// answerBare reads the body to its end and answers as a receiver does.
func answerBare(ctx *fasthttp.RequestCtx) {
	if stream := ctx.RequestBodyStream(); stream != nil {
		if _, err := io.Copy(io.Discard, stream); err != nil {
			ctx.SetConnectionClose()
			ctx.SetStatusCode(fasthttp.StatusBadRequest)
			return
		}
	}
	ctx.SetStatusCode(fasthttp.StatusOK)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString("OK")
}

// bareServer is the running server with the producers before it: the same connections and webhooks as those of
// the receiver that it is the floor of.
type bareServer struct {
	run       *Run
	process   *helper
	producers *Producers
}

// startBare starts the server for one case of the scenario.
func (r *Run) startBare(ctx context.Context, templates *Templates, c receiverCase, key string) (*bareServer, error) {
	process, err := startHelper(ctx, r.Binary, BareServer, "--target", "http://127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var listening bareListening
	if err := process.hear(&listening, stopWithin); err != nil {
		return nil, err
	}
	_, crews := contactTracks(templates, c.connections)
	return &bareServer{run: r, process: process, producers: NewProducers(LoadConfig{
		Address: listening.Address, Dialect: HookDialect(receiverPath, key), Crews: crews, Size: templates.Size, Batch: 1,
	})}, nil
}

// load measures the server in a closed loop, or in an open one at a rate above 0.
func (b *bareServer) load(ctx context.Context, rate float64, d time.Duration) (load *Load, err error) {
	defer b.run.Terminal.Watch(func() string { return "measuring the bare server" })()
	if rate > 0 {
		load, err = b.producers.Open(ctx, Constant(rate, d))
	} else {
		load, err = b.producers.Closed(ctx, d)
	}
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case load.Accepted == 0:
		err = errNothing
	}
	if err != nil {
		return nil, fmt.Errorf("measure the bare server: %w", err)
	}
	return load, nil
}

// close ends the producers and the server.
func (b *bareServer) close() error {
	b.producers.Close()
	return b.process.end()
}
