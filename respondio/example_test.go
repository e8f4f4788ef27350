package respondio_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/respondio"
)

// A handler: verify, parse, switch over the types that matter.
func Example() {
	keys := []string{"the key of the webhook"}
	handle := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || staffetta.Verify(staffetta.SchemeRespondIO, keys, r.Header, body) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		payload, err := respondio.ParseBody(body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch p := payload.(type) {
		case *respondio.MessageReceived:
			if text, ok := p.Message.Content.(*respondio.Text); ok {
				fmt.Println(p.Contact.FirstName, "writes:", text.Text)
			}
		case *respondio.ContactTagUpdated:
			fmt.Println(p.Contact.FirstName, "is now", p.Tag)
		}
	}

	const body = `{"contact":{"firstName":"Aisyah"},"message":{"message":{"type":"text","text":"Hello"}},"event_type":"message.received","event_id":"e1"}`
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	// printf '%s' "$BODY" | openssl dgst -sha256 -hmac 'the key of the webhook' -binary | base64
	r.Header.Set("X-Webhook-Signature", "qMKNUWPJzSJykyvMLvE1oRJ6u1xVIEZ5u9mM6rFkl2c=")
	handle(httptest.NewRecorder(), r)
	// Output: Aisyah writes: Hello
}

func ExampleParse() {
	payload, err := respondio.Parse(staffetta.Event{Type: "call.ended", Payload: staffetta.Sample("call.ended")})
	if err != nil {
		fmt.Println(err)
		return
	}
	call := payload.(*respondio.CallEnded).Call
	fmt.Println(call.StartTime.Time(), call.DurationSeconds.Duration(), call.Summary.Title)
	// Output: 2026-07-21 04:43:20 +0000 UTC 2m0s Pricing inquiry
}

// An attachment is one file or several, and reads the same.
func ExampleContent() {
	for _, name := range []string{"message.received.attachment.image", "message.received.attachment.array", "message.received.location"} {
		payload, err := respondio.ParseBody(staffetta.SampleVariants()[name])
		if err != nil {
			fmt.Println(err)
			return
		}
		switch c := payload.(*respondio.MessageReceived).Message.Content.(type) {
		case *respondio.Attachment:
			for _, file := range c.Files {
				fmt.Println(file.Type, file.FileName, file.Size)
			}
		case *respondio.Location:
			fmt.Println(c.Latitude, c.Longitude, c.Address)
		}
	}
	// Output:
	// image receipt.jpg 39934
	// image a.jpg 100
	// image b.jpg 200
	// 3.139003 101.686855 Kuala Lumpur
}

// Custom fields of a contact are in Extra; what is not as documented is in Odd and its field is zero.
func ExampleRest() {
	payload, err := respondio.ParseBody([]byte(`{"contact":{"id":"12","company":"Kedai Kopi","email":["a@b.example"]},"event_type":"contact.updated"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	contact := payload.Head().Contact
	fmt.Printf("%s %s %q %s\n", contact.ID, contact.Extra["company"], contact.Email, contact.Odd["email"])

	contact.Phone = "+60123345566"
	written, err := contact.MarshalJSON()
	fmt.Println(string(written), err)
	// Output:
	// 12 "Kedai Kopi" "" ["a@b.example"]
	// {"id":"12","company":"Kedai Kopi","email":["a@b.example"],"phone":"+60123345566"} <nil>
}
