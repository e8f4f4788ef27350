package staffetta_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

// sampleType checks what every sample has in common and returns its event_type.
func sampleType(t *testing.T, name string, payload []byte) string {
	t.Helper()
	var event struct {
		EventType string `json:"event_type"`
		EventID   string `json:"event_id"`
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !staffetta.ValidEventID(event.EventID) {
		t.Errorf("%s: event_id %q is not valid", name, event.EventID)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, payload); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !bytes.Equal(compact.Bytes(), payload) {
		t.Errorf("%s: has white space outside strings", name)
	}
	return event.EventType
}

func TestEveryTypeOfTheCatalogueHasASample(t *testing.T) {
	for _, eventType := range staffetta.DefaultCatalogue().Types() {
		payload := staffetta.Sample(eventType.Name)
		if payload == nil {
			t.Errorf("%s has no sample", eventType.Name)
			continue
		}
		if got := sampleType(t, eventType.Name, payload); got != eventType.Name {
			t.Errorf("the sample of %s has the event_type %q", eventType.Name, got)
		}
	}
}

func TestASampleVariantIsNamedAfterItsType(t *testing.T) {
	variants := staffetta.SampleVariants()
	if len(variants) == 0 {
		t.Fatal("no variants")
	}
	for name, payload := range variants {
		if got := sampleType(t, name, payload); !strings.HasPrefix(name, got+".") {
			t.Errorf("the variant %s has the event_type %q", name, got)
		}
	}
}

func TestASampleIsACopy(t *testing.T) {
	first := staffetta.Sample("call.ended")
	first[0] = '!'
	if second := staffetta.Sample("call.ended"); second[0] != '{' {
		t.Error("writing to a sample changes the next one")
	}
}

func TestWhatIsNoTypeHasNoSample(t *testing.T) {
	for _, name := range []string{"", ".", "..", "contact", "contact.deleted", "message-types/message.sent.card", "../go.mod"} {
		if payload := staffetta.Sample(name); payload != nil {
			t.Errorf("Sample(%q) = %.40s, want nil", name, payload)
		}
	}
}
