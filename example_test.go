package staffetta_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/staffetta-relay/staffetta"
)

// Verification alone, for a handler that stores and answers by itself. While a key is being rotated,
// list both.
func ExampleVerify() {
	keys := []string{"the key of the webhook", "the one before"}
	handle := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		err = staffetta.Verify(staffetta.SchemeRespondIO, keys, r.Header, body)
		switch {
		case errors.Is(err, staffetta.ErrSignatureMissing):
			fmt.Println("not signed at all")
			w.WriteHeader(http.StatusUnauthorized)
		case err != nil:
			fmt.Println("signed with another key, or changed")
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fmt.Println("from respond.io")
		}
	}

	const body = `{"contact":{"firstName":"Aisyah"},"message":{"message":{"type":"text","text":"Hello"}},"event_type":"message.received","event_id":"e1"}`
	// printf '%s' "$BODY" | openssl dgst -sha256 -hmac 'the key of the webhook' -binary | base64
	const signature = "qMKNUWPJzSJykyvMLvE1oRJ6u1xVIEZ5u9mM6rFkl2c="
	for _, sent := range []struct{ body, signature string }{
		{body, signature}, {body, ""}, {strings.Replace(body, "Hello", "Bye", 1), signature},
	} {
		r := httptest.NewRequest(http.MethodPost, "/hooks/respond", strings.NewReader(sent.body))
		if sent.signature != "" {
			r.Header.Set("X-Webhook-Signature", sent.signature)
		}
		handle(httptest.NewRecorder(), r)
	}
	// Output:
	// from respond.io
	// not signed at all
	// signed with another key, or changed
}
