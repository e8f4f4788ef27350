package receiver

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

var sampleRequest = Request{
	EventID: "0198f1c2-aaaa-7bbb-8ccc-ddddeeeeffff", ReceivedAt: time.Date(2026, 3, 2, 9, 30, 0, 123_000, time.UTC),
	Method: "POST", URI: "/hooks/respond?a=1", Host: "hooks.example.com", Remote: "192.0.2.7", TLS: true,
	Header: []HeaderField{{"Content-Type", "application/json"}, {"X-Webhook-Signature", "c2ln"}},
	Body:   []byte(`{"event_type":"message.received"}`),
}

func TestABlockGivesBackTheRequestsThatWerePutIntoIt(t *testing.T) {
	replay := Request{EventID: "e2", ReceivedAt: sampleRequest.ReceivedAt, Method: "POST", URI: "/", Replay: true, Target: "crm", Header: []HeaderField{}, Body: []byte{}}
	b := newBlock(nil)
	want := []Request{sampleRequest, replay}
	for i := range want {
		b.add(&want[i])
	}
	b.number(41)
	if first, end, err := blockOrdinals(b.data); err != nil || first != 41 || end != 43 {
		t.Fatalf("ordinals are %d to %d (%v), want 41 to 43", first, end, err)
	}
	var got []Request
	err := eachRequest(b.data, func(stored []byte) error {
		r, err := parseRequest(stored)
		if err != nil {
			return err
		}
		id, err := identify(stored)
		if err != nil || string(id.eventID) != r.EventID || string(id.target) != r.Target || id.replay != r.Replay ||
			!bytes.Equal(id.body, r.Body) || !id.receivedAt.Equal(r.ReceivedAt) {
			t.Errorf("identify gives %+v (%v) of %+v", id, err, r)
		}
		got = append(got, *r)
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v (%v)\nwant %+v", got, err, want)
	}
}

// FuzzBlock: what is damaged is refused, and nothing is read beyond it.
func FuzzBlock(f *testing.F) {
	b := newBlock(nil)
	b.add(&sampleRequest)
	b.number(1)
	f.Add(b.data)
	f.Add([]byte{blockFormat})
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = eachRequest(data, func(stored []byte) error {
			r, err := parseRequest(stored)
			_, identified := identify(stored)
			if err == nil && identified != nil {
				t.Errorf("identify refuses what can be read: %v", identified)
			}
			if err == nil {
				again, err := parseRequest(appendRequest(nil, r))
				if err != nil || !reflect.DeepEqual(again, r) {
					t.Errorf("%+v became %+v (%v)", r, again, err)
				}
			}
			return err
		})
	})
}

func TestAKeyRecordGivesBackItsKeysAndHowFarItReaches(t *testing.T) {
	want := []storedKey{{fingerprintOf("a"), 1_700_000_000, 0}, {fingerprintOf("b"), 1_700_000_001, 0}}
	var got []storedKey
	covered, err := parseKeyRecord(appendKeyRecord(nil, 99, want), func(k storedKey) { got = append(got, k) })
	if err != nil || covered != 99 || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, covered %d (%v)", got, covered, err)
	}
	if _, err := parseKeyRecord(append(appendKeyRecord(nil, 99, want), 0), func(storedKey) {}); err == nil {
		t.Error("a record with a byte too many is taken")
	}
}
