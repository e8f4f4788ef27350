package receiver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/receiver"
	"github.com/staffetta-relay/staffetta/respondio"
)

// A program that handles respond.io's webhooks: each is verified, stored and answered with 200 before
// the function gets it, and the function gets it again until it returns nil.
func Example() {
	data, key := tempFolder(), staffetta.NewSigningKey() // a folder of your own, and the key that respond.io shows
	defer os.RemoveAll(data)
	ctx, stop := context.WithCancel(context.Background())
	handled := make(chan string, 1)

	handle := func(_ context.Context, e staffetta.Event) error {
		payload, err := respondio.Parse(e)
		if err != nil {
			return receiver.Permanent(err) // to the dead letters: it would fail again
		}
		switch p := payload.(type) {
		case *respondio.MessageReceived:
			if text, ok := p.Message.Content.(*respondio.Text); ok {
				handled <- p.Contact.FirstName + " writes: " + text.Text
			}
		case *respondio.ContactTagUpdated:
			handled <- p.Contact.FirstName + " is now " + p.Tag
		}
		return nil
	}
	store, err := embed.Start(ctx, embed.Config{Dir: data, Layout: embed.Layout{Journal: true}})
	check(err)
	defer store.Shutdown()
	r, err := receiver.New(ctx, receiver.Config{
		Listen: "127.0.0.1:0", Connect: store.Connect,
		Sources: []receiver.Source{{Path: "/hooks/respond", Verify: staffetta.SchemeRespondIO, Keys: []string{key}, Handle: handle}},
	})
	check(err)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }() // a program of its own calls Run, with the context of signal.NotifyContext

	fmt.Println(post("http://"+r.Addr().String()+"/hooks/respond", key, staffetta.Sample("message.received")))
	fmt.Println(<-handled)
	stop()
	fmt.Println(<-ended)
	// Output:
	// 200 OK
	// Aisyah writes: Hi! Is the “Kopi <Gula & Apung>” still RM12/kg? 😊
	// <nil>
}

// A program that has an HTTP server of its own mounts the receiver in it.
func ExampleReceiver_Handler() {
	data, key := tempFolder(), staffetta.NewSigningKey()
	defer os.RemoveAll(data)
	ctx, stop := context.WithCancel(context.Background())
	handled := make(chan staffetta.Event, 1)

	store, err := embed.Start(ctx, embed.Config{Dir: data, Layout: embed.Layout{Journal: true}})
	check(err)
	defer store.Shutdown()
	r, err := receiver.New(ctx, receiver.Config{
		NoListener: true, Connect: store.Connect,
		Sources: []receiver.Source{{
			Path: "/hooks/respond", Verify: staffetta.SchemeRespondIO, Keys: []string{key},
			Handle: func(_ context.Context, e staffetta.Event) error {
				handled <- e
				return nil
			},
		}},
	})
	check(err)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }() // it stores and hands over; the server is yours

	mux := http.NewServeMux()
	mux.Handle("/hooks/respond", r.Handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the shop") })
	server := httptest.NewServer(mux)

	fmt.Println(post(server.URL+"/hooks/respond", key, staffetta.Sample("call.ended")))
	fmt.Println(post(server.URL+"/hooks/respond", staffetta.NewSigningKey(), staffetta.Sample("call.ended")))
	fmt.Println(post(server.URL+"/", key, nil))
	fmt.Println((<-handled).Type)
	server.Close() // first what takes, then what stores
	stop()
	fmt.Println(<-ended)
	// Output:
	// 200 OK
	// 401 the signature is wrong
	// 200 the shop
	// call.ended
	// <nil>
}

// post sends a webhook as respond.io does.
func post(url, key string, body []byte) string {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	check(err)
	signer, err := staffetta.NewSigner(key)
	check(err)
	request.Header.Set("X-Webhook-Signature", string(signer.AppendRespondIO(nil, body)))
	response, err := http.DefaultClient.Do(request)
	check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	check(err)
	return fmt.Sprintf("%d %s", response.StatusCode, bytes.TrimSpace(answer))
}

func tempFolder() string {
	dir, err := os.MkdirTemp("", "receiver-example-")
	check(err)
	return dir
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
