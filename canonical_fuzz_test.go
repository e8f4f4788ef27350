package staffetta

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"testing"
)

// checkPayload checks what holds for every payload that was accepted.
func checkPayload(t *testing.T, in []byte, p Payload) {
	t.Helper()
	if !json.Valid(p.Body) {
		t.Fatalf("%s: not JSON: %s", shown(in), p.Body)
	}
	again, err := Canonicalize(p.Body)
	if err != nil || &again.Body[0] != &p.Body[0] || len(again.Body) != len(p.Body) {
		t.Fatalf("%s: %s is not canonical: %v", shown(in), p.Body, err)
	}
	if !bytes.Equal(again.EventType, p.EventType) || !bytes.Equal(again.EventID, p.EventID) {
		t.Fatalf("%s: the members are %q and %q, then %q and %q", shown(in), p.EventType, p.EventID, again.EventType, again.EventID)
	}
	want, got := decoded(t, in), decoded(t, p.Body)
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("%s: %s has another value", shown(in), p.Body)
	}
	top := got.(map[string]any)
	checkTop(t, in, top, memberEventType, p.EventType)
	checkTop(t, in, top, memberEventID, p.EventID)
	if _, ok := top[memberEventID]; !ok {
		with, err := Canonicalize(p.AppendEventID(nil, "an-id"))
		if err != nil || string(with.EventID) != "an-id" {
			t.Fatalf("%s: with an event_id: %v", shown(in), err)
		}
	}
}

func checkTop(t *testing.T, in []byte, top map[string]any, member string, got []byte) {
	t.Helper()
	want, present := top[member]
	if present != (got != nil) {
		t.Fatalf("%s: %s is present: %v, found: %v", shown(in), member, present, got != nil)
	}
	if !present {
		return
	}
	var text string
	if err := json.Unmarshal([]byte(`"`+string(got)+`"`), &text); err != nil || any(text) != want {
		t.Fatalf("%s: %s is %q, want %q", shown(in), member, got, want)
	}
}

// decoded is the value of a JSON text with its numbers as float64.
func decoded(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("%s: %v", shown(text), err)
	}
	return floats(v)
}

func floats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || math.IsInf(f, 0) {
			return v
		}
		return f
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = floats(v[key])
		}
	}
	return v
}

func FuzzCanonicalize(f *testing.F) {
	for _, c := range accepted {
		f.Add([]byte(c.in))
		f.Add([]byte(c.want))
	}
	for _, c := range refused {
		if len(c.in) < 1000 {
			f.Add([]byte(c.in))
		}
	}
	for _, in := range samplePayloads(f) {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		p, err := Canonicalize(in)
		if !bytes.Equal(in, before) {
			t.Fatal("the input was changed")
		}
		s := scanner{src: in}
		scanned := s.scan()
		rewritten, _, rewriteErr := rewrite(in)
		if scanned && (rewriteErr != nil || !bytes.Equal(rewritten, in)) {
			t.Fatalf("%s is scanned, but rewritten as %s: %v", shown(in), rewritten, rewriteErr)
		}
		if err != nil {
			var bad *InputError
			if !errors.As(err, &bad) || bad.Code == "" || bad.Detail == "" || bad.Offset < 0 || bad.Offset > len(in) {
				t.Fatalf("%s: not a whole InputError: %#v", shown(in), err)
			}
			return
		}
		if !scanned && len(p.Body) < 500 {
			// 500 bytes hold no more keys than the scanner has room for.
			if s := (scanner{src: p.Body}); !s.scan() {
				t.Fatalf("%s: the scanner does not recognise %s", shown(in), p.Body)
			}
		}
		checkPayload(t, in, p)
	})
}
