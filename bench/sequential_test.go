package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// aSink is one with a single endpoint that verifies with the key.
func aSink(t *testing.T) (s *Sink, key string) {
	s, err := NewSink(SinkConfig{Endpoints: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	key = staffetta.NewSigningKey()
	s.SetKey(0, key)
	return s, key
}

func TestTheSequentialClientSaysWhatItSent(t *testing.T) {
	sink, key := aSink(t)
	judge, tracks := judged(1, math.MaxUint32)
	sink.Judged(judge)
	start := time.Now()
	var out bytes.Buffer
	o := Options{Target: sink.URL(0), Payload: 2048, Duration: 100 * time.Millisecond}
	if err := RunSequentialClient(t.Context(), o, strings.NewReader(key+"\n"), &out); err != nil {
		t.Fatal(err)
	}
	var sent sequentialSent
	if err := json.Unmarshal(out.Bytes(), &sent); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Fatalf("%v: %q", err, &out)
	}
	if sent.Sent == 0 || sent.Accepted != sent.Sent || sent.Started < start.UnixNano() || sent.Started > time.Now().UnixNano() {
		t.Errorf("%+v", sent)
	}
	tracks[0].accepted.Store(sent.Accepted)
	if got := judge.Judge(); got.Arrived != int64(sent.Sent) || got.Lost+got.OutOfOrder+got.Duplicated+got.Strays > 0 {
		t.Errorf("%+v of %+v", got, sent)
	}
	if got := sink.Report(); got.Requests != int64(sent.Sent) || got.Verified == 0 || got.BadSignatures+got.Unknown > 0 {
		t.Errorf("%+v of %+v", got, sent)
	}
}

func TestTheSequentialClientRefusesWhatIsNoSinkOfTheBench(t *testing.T) {
	key := staffetta.NewSigningKey()
	for name, c := range map[string]struct {
		options Options
		key     string
		want    string
	}{
		"no target":             {Options{}, key, "--target must be"},
		"another machine":       {Options{Target: "http://192.0.2.1:80/e/0"}, key, "--target must be"},
		"another machine named": {Options{Target: "http://sink.example.com/e/0"}, key, "--target must be"},
		"behind a user":         {Options{Target: "http://127.0.0.1:80@192.0.2.1/e/0"}, key, "--target must be"},
		"https":                 {Options{Target: "https://127.0.0.1:1/e/0"}, key, "--target must be"},
		"no key":                {Options{Target: "http://127.0.0.1:1/e/0"}, "", "the standard input must be a signing key"},
		"small events":          {Options{Target: "http://127.0.0.1:1/e/0", Payload: 10}, key, "--payload must be"},
	} {
		var out bytes.Buffer
		err := RunSequentialClient(t.Context(), c.options, strings.NewReader(c.key), &out)
		if _, usage := errors.AsType[UsageError](err); !usage || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
			t.Errorf("%s: %v %q", name, err, &out)
		}
	}
}

func TestTheSequentialClientFailsWhereItIsRefused(t *testing.T) {
	sink, key := aSink(t)
	var out bytes.Buffer
	err := RunSequentialClient(t.Context(), Options{Target: sink.URL(1)}, strings.NewReader(key), &out)
	if err == nil || !strings.Contains(err.Error(), "status 404") || out.Len() > 0 {
		t.Errorf("%v %q", err, &out)
	}
}

func TestTheSequentialFloorNeedsAProcessOfItsOwn(t *testing.T) {
	sink, _ := aSink(t)
	templates, err := NewTemplates(MinPayload)
	if err != nil {
		t.Fatal(err)
	}
	layout := &Layout{Endpoints: make([]Endpoint, 1)}
	_, err = MeasureSequential(t.Context(), filepath.Join(t.TempDir(), "none"), sink, layout, templates, time.Second)
	if err == nil || !strings.Contains(err.Error(), "measure the sequential floor: the sequential-client failed") {
		t.Error(err)
	}
}

func TestAFloorWhoseEventsAreNotAllThereIsAnError(t *testing.T) {
	sink, _ := aSink(t)
	templates, err := NewTemplates(MinPayload)
	if err != nil {
		t.Fatal(err)
	}
	run := directRun(sink, &Layout{Endpoints: make([]Endpoint, 1)}, templates, 1)
	for name, c := range map[string]struct {
		arriving []uint32
		accepted uint32
		want     string
	}{
		"all":          {[]uint32{0, 1, 2}, 3, ""},
		"lost":         {[]uint32{0, 2}, 3, "missing or out of order: [endpoint 0, track 0 of 3 events: 1 lost"},
		"out of order": {[]uint32{0, 2, 1}, 3, "1 out of order"},
		"twice":        {[]uint32{0, 1, 1}, 2, "1 duplicated"},
		"not accepted": {[]uint32{0, 1, 2}, 2, "3 events of the floor itself arrived, and 2 were accepted"},
	} {
		perSecond, err := run.judged(func(tracks []*Track, _ *Measure) error {
			tracks[0].sent.Store(math.MaxUint32)
			for _, n := range c.arriving {
				now := time.Now().UnixNano()
				sink.judge.Load().Arrive(Mark{Sequence: n, Planned: now}, 0, now)
			}
			tracks[0].accepted.Store(c.accepted)
			return nil
		})
		if c.want == "" && (err != nil || perSecond <= 0) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v/s, %v", name, perSecond, err)
		}
	}
}

func TestASinkForAnotherMachineListensOnTheLoopbackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemory()
		sink, err := NewSink(SinkConfig{Endpoints: 1, Host: "192.0.2.1", Listen: network.listen})
		if err != nil {
			t.Fatal(err)
		}
		first, err := sink.loopback()
		if err != nil || !strings.HasPrefix(first, "127.0.0.1:") {
			t.Errorf("%q %v", first, err)
		}
		if second, err := sink.loopback(); second != first || err != nil {
			t.Errorf("%q %v, not %q", second, err, first)
		}
		c := newCustomer(t, sink, network.dial)
		for _, address := range []string{sink.address, first} {
			sink.address = address // for the URL
			if status, err := c.deliver(0, Mark{}, 1); status != 200 || err != nil {
				t.Errorf("%s: %d %v", address, status, err)
			}
		}
		if again, err := sink.loopback(); again != first || err != nil {
			t.Errorf("%q %v, not its own %q", again, err, first)
		}
		c.close()
		sink.Close()
		pause(t.Context(), time.Minute) // fasthttp's clients end
	})
}
