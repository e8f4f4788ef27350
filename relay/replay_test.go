package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// replayRelay is a relay without a sender, on a real store.
type replayRelay struct {
	letterStore
	api    *apiTest
	relay  *Relay
	server *embed.Server
	// settled is what the lanes would say.
	settled atomic.Uint64
	stop    func()
}

// startReplayRelay runs a relay on a folder.
func startReplayRelay(t *testing.T, dir string, change ...func(*Config)) *replayRelay {
	t.Helper()
	// So short that it cannot be what keeps a copy from being stored twice after a restart.
	server := embedtest.Start(t, dir, 4, func(c *embed.Config) { c.Layout.DuplicateWindow = 100 * time.Millisecond })
	r := &replayRelay{server: server}
	r.js = embedtest.JetStream(t, server)
	cfg := testRegistryConfig(t, nil)
	config := Config{
		Listener: fasthttputil.NewInmemoryListener(), JetStream: r.js, Shards: 4, Registry: cfg, Log: zerolog.New(zerolog.NewTestWriter(t)),
		API: APIConfig{
			Catalogue: staffetta.DefaultCatalogue(), Version: "1.2.3",
			State: func(string) (State, bool) { return State{Settled: r.settled.Load()}, true },
		},
	}
	for range 2 {
		conn, err := server.Connect("publish")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		config.Publish = append(config.Publish, conn)
	}
	for _, f := range change {
		f(&config)
	}
	var err error
	if r.relay, err = New(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.letters = r.relay.replays.letters
	config.API.Registry, config.API.DeadLetters, config.API.Replays = r.relay.registry, r.letters, r.relay.replays
	api, err := NewAPI(config.API)
	if err != nil {
		t.Fatal(err)
	}
	r.api = &apiTest{T: t, doc: parseOpenAPI(t), key: testAdminKey, registry: r.relay.registry, handler: api.Handler()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.relay.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
		server.Shutdown()
	}
	return r
}

// copies gives the marks of the replayed copies of an endpoint, in order, and its events' ids.
func (r *replayRelay) copies(t *testing.T, endpoint string) (marks, ids []string) {
	t.Helper()
	shard := staffetta.Shard(endpoint, 4)
	events := eventShelf(r.js.Conn(), shard)
	err := events.each(t.Context(), staffetta.EventSubject(shard, endpoint), 1, ^uint64(0), 0, func(m *shelved) error {
		if m.replay != "" {
			marks, ids = append(marks, m.replay), append(ids, m.eventID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return marks, ids
}

// ended waits for the end of a replay.
func (r *replayRelay) ended(t *testing.T, workspace, id string) replayRecord {
	t.Helper()
	if job := r.relay.replays.job(workspace, id); job != nil {
		select {
		case <-job.done:
		case <-time.After(time.Minute):
			t.Fatal("the replay does not end")
		}
	}
	record, err := r.relay.replays.find(t.Context(), workspace, id)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func TestAKillInTheMiddleOfAReplayLosesAndRepeatsNothing(t *testing.T) {
	const letters, killAt = 1500, 700 // in the middle of the third batch
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	var stored atomic.Int64
	reached, release := make(chan struct{}), make(chan struct{})
	r := startReplayRelay(t, dir, func(c *Config) {
		c.Stored = func(int, string, uint64, staffetta.Event, string) {
			if stored.Add(1) == killAt {
				close(reached)
				<-release
			}
		}
	})
	endpoint, _ := r.api.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	var want []string
	for n := range letters {
		sequence := r.drop(t, "acme", id, "e"+strconv.Itoa(n), "message.received", n)
		want = append(want, "acme.big.d"+strconv.FormatUint(sequence, 10))
	}
	if _, _, err := r.relay.replays.start(t.Context(), "acme", "big", replayRequest{Endpoint: id, Outcome: replayDropped}, nil); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	close(release)
	if record := r.ended(t, "acme", "big"); record.Status != replayDone || record.Replayed != letters {
		t.Errorf("without the kill: %+v", record)
	}
	if marks, _ := r.copies(t, id); !slices.Equal(marks, want) {
		t.Errorf("without the kill: %d copies", len(marks))
	}
	r.stop()

	r = startReplayRelay(t, killed)
	record := r.ended(t, "acme", "big")
	if record.Status != replayDone || record.Replayed != letters || record.Found != letters {
		t.Errorf("after the kill: %+v", record)
	}
	marks, _ := r.copies(t, id)
	if !slices.Equal(marks, want) {
		t.Errorf("after the kill: %d copies, want %d; first %v", len(marks), len(want), marks[:min(len(marks), 3)])
	}
	r.stop()
}

func TestACancelledReplayStopsWhereItIsAndOneThatWaitsForItAtOnce(t *testing.T) {
	var stored atomic.Int64
	reached, release := make(chan struct{}), make(chan struct{})
	r := startReplayRelay(t, t.TempDir(), func(c *Config) {
		c.Stored = func(int, string, uint64, staffetta.Event, string) {
			if stored.Add(1) == 300 { // in the second batch
				close(reached)
				<-release
			}
		}
	})
	endpoint, _ := r.api.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	for n := range 1000 {
		r.drop(t, "acme", id, "e"+strconv.Itoa(n), "message.received", n)
	}
	request := replayRequest{Endpoint: id, Outcome: replayDropped}
	for _, name := range []string{"first", "second"} {
		if _, _, err := r.relay.replays.start(t.Context(), "acme", name, request, nil); err != nil {
			t.Fatal(err)
		}
	}
	<-reached
	r.api.ask(200, "DELETE", acme+"/replays/second", "")
	done := make(chan object)
	go func() { done <- r.api.ask(200, "DELETE", acme+"/replays/first", "") }()
	for !r.relay.replays.Withdrawn("acme.first.d1") {
		runtime.Gosched()
	}
	close(release)
	if got := <-done; got["status"] != "cancelled" || got["replayed"] != 256.0 && got["replayed"] != 512.0 {
		t.Errorf("first: %v", got)
	}
	if got := r.api.ask(200, "DELETE", acme+"/replays/second", ""); got["status"] != "cancelled" || got["replayed"] != 0.0 {
		t.Errorf("second: %v", got)
	}
	if marks, _ := r.copies(t, id); len(marks) > 512 || marks[0] != "acme.first.d1" || !r.relay.replays.Withdrawn(marks[0]) || r.relay.replays.Withdrawn("acme.third.d1") {
		t.Errorf("%d copies", len(marks))
	}
	r.stop()
}

// refusingJetStream takes nothing while it refuses.
type refusingJetStream struct {
	jetstream.JetStream
	refuse atomic.Bool
}

func (j *refusingJetStream) Publish(ctx context.Context, subject string, text []byte, options ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if j.refuse.Load() {
		return nil, errors.New("the store takes nothing")
	}
	return j.JetStream.Publish(ctx, subject, text, options...)
}

func TestACancellationThatTheStoreDidNotTakeIsStoredAtARepeatOrWhenItsTurnComes(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	r := startReplayRelay(t, t.TempDir(), func(c *Config) {
		c.Stored = func(int, string, uint64, staffetta.Event, string) {
			close(reached)
			<-release
		}
	})
	endpoint, _ := r.api.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	r.drop(t, "acme", id, "one", "message.received", 1)
	store := &refusingJetStream{JetStream: r.js}
	r.relay.replays.js = store
	for _, name := range []string{"first", "second", "third"} {
		if _, _, err := r.relay.replays.start(t.Context(), "acme", name, replayRequest{Endpoint: id, Outcome: replayDropped}, nil); err != nil {
			t.Fatal(err)
		}
	}
	<-reached
	stored := func(name string) replayStatus {
		m, err := r.relay.replays.shelf.last(t.Context(), staffetta.ReplaySubject("acme", name))
		if err != nil || m == nil {
			t.Fatal(m, err)
		}
		record, err := readReplay(m)
		if err != nil {
			t.Fatal(err)
		}
		return record.Status
	}
	store.refuse.Store(true)
	for _, name := range []string{"second", "second", "third"} {
		r.api.refuse(503, "unavailable", "DELETE", acme+"/replays/"+name, "")
	}
	store.refuse.Store(false)
	r.api.ask(200, "DELETE", acme+"/replays/second", "")
	if second, third := stored("second"), stored("third"); second != replayCancelled || third != replayRunning {
		t.Errorf("stored are %s and %s", second, third)
	}
	close(release)
	if r.ended(t, "acme", "third"); stored("third") != replayCancelled {
		t.Errorf("at its turn the third is %s", stored("third"))
	}
	if marks, _ := r.copies(t, id); len(marks) != 1 {
		t.Errorf("%d copies", len(marks))
	}
	r.stop()
}

func TestAReplayWaitsWhileTheStoreTakesNothing(t *testing.T) {
	var asked atomic.Int64
	r := startReplayRelay(t, t.TempDir(), func(c *Config) {
		c.Accepting = func() error {
			if n := asked.Add(1); n == 2 || n == 4 { // not at the request, at the first batch, and once later
				return Unavailable(errors.New("the disk is full"))
			}
			return nil
		}
	})
	endpoint, _ := r.api.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	for n := range 600 {
		r.drop(t, "acme", id, "e"+strconv.Itoa(n), "message.received", n)
	}
	r.api.ask(202, "POST", acme+"/replays", `{"replay_id":"patient","endpoint":"`+id+`"}`)
	if record := r.ended(t, "acme", "patient"); record.Status != replayDone || record.Replayed != 600 {
		t.Errorf("record: %+v", record)
	}
	if marks, _ := r.copies(t, id); len(marks) != 600 {
		t.Errorf("%d copies", len(marks))
	}
	r.stop()
}

func TestAReplayLongerThanItsMemoryIsWholeAllTheSame(t *testing.T) {
	const bound = 100
	keys := recently{bound: bound}
	for n := range 3*bound + 7 {
		if !keys.put(fingerprintOf("ep", keyOfEvent, strconv.Itoa(n))) {
			t.Fatalf("%d is not new", n)
		}
	}
	for n := 3*bound + 6; n >= 2*bound+7; n-- {
		if keys.put(fingerprintOf("ep", keyOfEvent, strconv.Itoa(n))) {
			t.Fatalf("%d was forgotten", n)
		}
	}
	if kept := len(keys.young) + len(keys.old); kept > 2*bound {
		t.Errorf("%d keys are kept", kept)
	}
}

func TestAReplayOfLettersTakesEachEventOnceAndOnlyWhatItsFilterWants(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	a := r.api
	endpoint, path := a.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	other := fmt.Sprint(a.ask(201, "POST", acme+"/endpoints", `{"url":"http://other.example","event_types":["message.received"]}`)["id"])
	a.ask(201, "PUT", "/v1/workspaces/beta", `{"plan":"advanced"}`)
	r.drop(t, "acme", id, "one", "message.received", 1)
	r.drop(t, "acme", other, "one", "message.received", 1)
	r.drop(t, "acme", id, "two", "message.sent", 2)
	r.drop(t, "acme", "ep_gone", "three", "message.received", 3)
	r.drop(t, "acme", id, "one", "message.received", 4) // replayed before, and dropped again
	r.drop(t, "beta", id, "foreign", "message.received", 5)
	r.drop(t, "acme", id, "four", "message.received", 6)

	got := a.ask(202, "POST", acme+"/replays", `{"replay_id":"all","since":"2020-01-01T00:00:00Z"}`)
	if got["status"] != "done" || got["found"] != 5.0 || got["replayed"] != 4.0 || got["skipped"] != 1.0 || fmt.Sprint(got["skipped_by"]) != "map[endpoint_deleted:1]" {
		t.Errorf("replay: %v", got)
	}
	if _, ids := r.copies(t, id); !slices.Equal(ids, []string{"one", "two", "four"}) {
		t.Errorf("copies: %v", ids)
	}
	if _, ids := r.copies(t, other); !slices.Equal(ids, []string{"one"}) {
		t.Errorf("copies of the other: %v", ids)
	}
	again := a.ask(202, "POST", acme+"/replays", `{"since":"2020-01-01T00:00:00Z","replay_id":"all"}`)
	if again["duplicate"] != true || again["replayed"] != 4.0 {
		t.Errorf("again: %v", again)
	}
	a.refuse(409, "replay_id_taken", "POST", acme+"/replays", `{"since":"2021-01-01T00:00:00Z","replay_id":"all"}`)

	got = a.ask(202, "POST", acme+"/replays", `{"endpoint":"`+id+`","event_type":"message.sent"}`)
	if got["replayed"] != 1.0 || got["examined"] != 4.0 || got["candidates"] != 4.0 {
		t.Errorf("by type: %v", got)
	}
	a.ask(200, "PATCH", path, `{"on_disable":"discard"}`)
	a.ask(200, "POST", path+"/disable", "")
	got = a.ask(202, "POST", acme+"/replays", `{"event_ids":["one","nobody","four","one"]}`)
	if got["events"] != 3.0 || got["replayed"] != 1.0 || got["skipped"] != 2.0 || got["aged_out"] != 1.0 ||
		fmt.Sprint(got["aged_out_event_ids"]) != "[nobody]" || !strings.HasPrefix(fmt.Sprint(got["note"]), "1 of the event ids is not held") {
		t.Errorf("by ids: %v", got)
	}
	page := a.ask(200, "GET", acme+"/replays?limit=2", "")
	rest := a.ask(200, "GET", acme+"/replays?cursor="+fmt.Sprint(page["next_cursor"]), "")
	if len(page["items"].([]any)) != 2 || len(rest["items"].([]any)) != 1 || rest["next_cursor"] != nil {
		t.Errorf("pages: %v, %v", page, rest)
	}
	if got := a.ask(200, "GET", "/v1/workspaces/beta/replays", ""); len(got["items"].([]any)) != 0 {
		t.Errorf("another workspace's: %v", got)
	}
	a.refuse(404, "replay_not_found", "GET", "/v1/workspaces/beta/replays/all", "")
	a.refuse(404, "replay_not_found", "DELETE", "/v1/workspaces/beta/replays/all", "")
	r.stop()
}

func TestAReplayOfDeliveredEventsLeavesOutWhatWasDroppedWaitsOrIsACopy(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	a := r.api
	endpoint, _ := a.withEndpoint()
	id := fmt.Sprint(endpoint["id"])
	shard := staffetta.Shard(id, 4)
	store := func(eventID, mark string) uint64 {
		e := staffetta.StoredEvent{ID: eventID, Type: "message.received", Payload: []byte(`{}`), Replay: mark}
		ack, err := r.js.Publish(t.Context(), staffetta.EventSubject(shard, id), e.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	store("delivered 1", "")
	dropped := store("dropped", "")
	store("delivered 1", "acme.before.e0-1")
	r.settled.Store(store("delivered 2", ""))
	store("waiting", "")
	r.drop(t, "acme", id, "dropped", "message.received", int(dropped))

	got := a.ask(202, "POST", acme+"/replays", `{"endpoint":"`+id+`","outcome":"delivered"}`)
	if got["found"] != 2.0 || got["replayed"] != 2.0 || !strings.Contains(fmt.Sprint(got["note"]), "aged out") {
		t.Errorf("delivered: %v", got)
	}
	got = a.ask(202, "POST", acme+"/replays", `{"endpoint":"`+id+`","outcome":"all"}`)
	if got["found"] != 3.0 || got["replayed"] != 3.0 {
		t.Errorf("all: %v", got)
	}
	got = a.ask(202, "POST", acme+"/replays", `{"event_ids":["waiting","delivered~2","dropped"]}`)
	if got["found"] != 2.0 || got["replayed"] != 1.0 || fmt.Sprint(got["skipped_by"]) != "map[waiting:1]" || got["aged_out"] != 1.0 {
		t.Errorf("by ids: %v", got)
	}
	_, ids := r.copies(t, id)
	if want := []string{"delivered 1", "delivered 1", "delivered 2", "dropped", "delivered 1", "delivered 2", "dropped"}; !slices.Equal(ids, want) {
		t.Errorf("copies: %v", ids)
	}
	r.stop()
}

func TestABadRequestForAReplayIsRefused(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	a := r.api
	a.refuse(404, "workspace_not_found", "POST", acme+"/replays", `{"since":"2026-01-01T00:00:00Z"}`)
	a.withEndpoint()
	many := `"` + strings.Repeat(`e","`, MaxReplayEvents) + `e"`
	for body, code := range map[string]string{
		"":                                 "invalid_replay",
		`{"outcome":"dropped"}`:            "invalid_replay",
		`{"event_type":"a.b"}`:             "invalid_replay",
		`{"until":"2026-01-01T00:00:00Z"}`: "invalid_replay",
		`{"event_ids":["a"],"since":"2026-01-01T00:00:00Z"}`: "invalid_replay",
		`{"event_ids":[]}`:             "invalid_event_ids",
		`{"event_ids":["a b"]}`:        "invalid_event_ids",
		`{"event_ids":[` + many + `]}`: "invalid_event_ids",
		`{"event_ids":"a"}`:            "invalid_type",
		`{"since":"yesterday"}`:        "invalid_time",
		`{"since":"2026-01-01T00:00:00Z","until":"2026-01-01T00:00:00Z"}`: "invalid_time",
		`{"since":"2026-01-01T00:00:00Z","outcome":"lost"}`:               "invalid_outcome",
		`{"since":"2026-01-01T00:00:00Z","endpoint":"a.*"}`:               "invalid_endpoint",
		`{"since":"2026-01-01T00:00:00Z","replay_id":"a b"}`:              "invalid_replay_id",
		`{"since":"2026-01-01T00:00:00Z","replay_id":""}`:                 "invalid_replay_id",
		`{"since":"2026-01-01T00:00:00Z","speed":1}`:                      "unknown_member",
	} {
		a.refuse(422, code, "POST", acme+"/replays", body)
	}
	a.refuse(400, "invalid_body", "POST", acme+"/replays", `{"since":`)
	a.refuse(404, "endpoint_not_found", "POST", acme+"/replays", `{"endpoint":"ep_none"}`)
	a.refuse(404, "replay_not_found", "GET", acme+"/replays/none", "")
	a.refuse(404, "replay_not_found", "DELETE", acme+"/replays/a.b", "")
	a.refuse(422, "invalid_cursor", "GET", acme+"/replays?cursor=x", "")
	r.stop()
}

func FuzzAReplayRequestIsEitherRefusedOrWhole(f *testing.F) {
	f.Add(`{"event_ids":["a","b","a"],"endpoint":"ep_1","outcome":"all"}`)
	f.Add(`{"endpoint":"ep_1","since":"2026-01-01T00:00:00Z","until":"2026-01-02T00:00:00.5+02:00","event_type":"a.b"}`)
	f.Add(`{"replay_id":"x","since":"1969-01-01T00:00:00Z"}`)
	f.Fuzz(func(t *testing.T, text string) {
		var body replayBody
		if len(text) == 0 || decodeBody([]byte(text), &body) != nil {
			return
		}
		req, ids, err := body.parse()
		if err != nil {
			return
		}
		switch {
		case len(ids) != req.Events || len(ids) > MaxReplayEvents:
			t.Errorf("%d ids, %d events", len(ids), req.Events)
		case len(ids) == 0 && req.Endpoint == "" && req.Since == nil:
			t.Error("a request for everything")
		case req.Endpoint != "" && !staffetta.ValidID(req.Endpoint):
			t.Errorf("endpoint %q", req.Endpoint)
		case slices.ContainsFunc(ids, func(id string) bool { return !staffetta.ValidEventID(id) }):
			t.Errorf("ids %q", ids)
		}
		one, err1 := fingerprintOfReplay(req, ids)
		two, err2 := fingerprintOfReplay(req, ids)
		if err1 != nil || err2 != nil || one != two || !staffetta.ValidID(one) {
			t.Errorf("fingerprints %q %q: %v %v", one, two, err1, err2)
		}
	})
}
