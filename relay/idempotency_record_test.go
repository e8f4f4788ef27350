package relay

import (
	"maps"
	"testing"
	"time"
)

func TestARecordOfKeysSurvivesARoundTrip(t *testing.T) {
	keys := []acceptedKey{
		{fingerprintOf("acme", keyOfRequest, "a"), 1_800_000_000, "an-id"},
		{fingerprintOf("acme", keyOfEvent, "a"), 1, ""},
	}
	var got []acceptedKey
	since := time.UnixMilli(1_800_000_000_123)
	checkSince := func(at time.Time) {
		if !at.Equal(since) {
			t.Errorf("since %v, want %v", at, since)
		}
	}
	if err := parseRecord(appendKeys(nil, since, keys), checkSince, func(k acceptedKey) { got = append(got, k) }, nil); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != keys[0] || got[1] != keys[1] || keys[0].fingerprint == keys[1].fingerprint {
		t.Errorf("got %v, want %v", got, keys)
	}
	want := &foundEvent{eventID: "an-id", endpoints: map[string]bool{"ep_1": true, "ep_2": true}}
	record := appendFound([]byte{recordOfFound}, keys[0].fingerprint, want)
	err := parseRecord(record, nil, nil, func(f fingerprint, e *foundEvent) {
		if f != keys[0].fingerprint || e.eventID != want.eventID || !maps.Equal(e.endpoints, want.endpoints) || !e.recorded {
			t.Errorf("got %v %+v", f, e)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(appendKeys(nil, time.UnixMilli(1), []acceptedKey{{unix: 7, eventID: "x"}}))
	f.Add(appendFound([]byte{recordOfFound}, fingerprint{}, &foundEvent{eventID: "x", endpoints: map[string]bool{"e": true}}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = parseRecord(b, func(time.Time) {}, func(acceptedKey) {}, func(fingerprint, *foundEvent) {})
	})
}
