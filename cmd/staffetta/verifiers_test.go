package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// verified is what the endpoint in testdata/verifiers.mjs says of one attempt: the places of the
// keys under which each family verifies it.
type verified struct {
	Path          string
	Attempt       int
	ID, EventID   string
	Signatures    int
	Body          string
	Raw           keyPlaces
	Restringified keyPlaces
}

type keyPlaces struct{ RespondIO, Standard []int }

// verifier is an endpoint written in the language that most receivers are written in.
type verifier struct {
	url string

	mu  sync.Mutex
	got []verified
}

// startVerifier runs node with the keys.
func startVerifier(t *testing.T, keys ...string) *verifier {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: it is needed to verify signatures as receivers written in JavaScript do")
	}
	command := exec.Command(node, append([]string{"testdata/verifiers.mjs"}, keys...)...)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(stdout)
	port, err := in.ReadString('\n')
	if err != nil {
		t.Fatalf("node did not start: %v", err)
	}
	v := &verifier{url: "http://127.0.0.1:" + strings.TrimSpace(port)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		v.read(in)
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		<-read
		if err := command.Wait(); err != nil {
			t.Errorf("node ended with %v", err)
		}
	})
	return v
}

func (v *verifier) read(in io.Reader) {
	for d := json.NewDecoder(in); ; {
		var a verified
		if err := d.Decode(&a); err != nil {
			return
		}
		v.mu.Lock()
		v.got = append(v.got, a)
		v.mu.Unlock()
	}
}

// all gives the attempts so far that were made at the path.
func (v *verifier) all(path string) []verified {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.got), func(a verified) bool { return a.Path != path })
}

func (v *verifier) wait(t *testing.T, path string, n int) []verified {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%d attempts at %s", n, path), func() bool { return len(v.all(path)) >= n })
	return v.all(path)
}

// check fails the test unless both families verify the attempt, under these keys and no others.
func (a verified) check(t *testing.T, name string, want keyPlaces) {
	t.Helper()
	if !reflect.DeepEqual(a.Raw, want) || !reflect.DeepEqual(a.Restringified, want) {
		body, _ := base64.StdEncoding.DecodeString(a.Body)
		t.Errorf("%s, attempt %d: as it came it verifies under %v, made anew under %v; want %v:\n%s",
			name, a.Attempt, a.Raw, a.Restringified, want, body)
	}
	if a.ID != a.EventID || a.ID == "" {
		t.Errorf("%s: webhook-id is %q, event_id %q", name, a.ID, a.EventID)
	}
}

// quickRetries lets a failed attempt be made again at once.
func quickRetries(s *relaySettings) {
	s.policy.Retry = []time.Duration{10 * time.Millisecond, 10 * time.Millisecond}
}

// signed makes an endpoint for all event types, which signs with the key, and gives its path in the API.
func (l *liveRelay) signed(url, key string) string {
	l.t.Helper()
	var types []string
	for _, known := range staffetta.DefaultCatalogue().Types() {
		types = append(types, known.Name)
	}
	body, err := json.Marshal(map[string]any{"url": url, "event_types": types, "signing_key": key})
	if err != nil {
		l.t.Fatal(err)
	}
	m := l.must(201, "POST", "/v1/workspaces/acme/endpoints", string(body)).members(l.t)
	return "/v1/workspaces/acme/endpoints/" + m["id"].(string)
}

// nastyPayloads are in forms that a verifier which makes the body anew would not see again.
var nastyPayloads = map[string]string{
	"integer-like keys":        `{"event_type":"message.received","b":1,"10":{"2":"b","1":"a","01":"c","-1":"d","4294967294":1,"4294967295":2},"9":0}`,
	"line separators":          "{\"event_type\":\"message.received\",\"s\":\"a\u2028b\u2029c\\u2028d\"}",
	"escapes of HTML":          `{"event_type":"message.received","s":"\u003cb\u003e \u0026 <i> & \/path\/"}`,
	"numbers":                  `{"event_type":"message.received","n":[1.0,1e21,1E2,-0,-0.0,0.1e-6,1e-7,1.7976931348623157e308,5e-324,9007199254740991,0.30000000000000004]}`,
	"emoji as surrogate pairs": `{"event_type":"message.received","s":"\ud83d\ude00 \ud83d\udc68\u200d\ud83d\udc69\u200d\ud83d\udc67 \u00e8"}`,
	"emoji as they are":        `{"event_type":"message.received","s":"😀 👨‍👩‍👧 è\u0300 \ufeff"}`,
	"control characters":       `{"event_type":"message.received","s":"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001f\u007f\u0080\b\f\n\r\t\"\\"}`,
	"white space":              " {\r\n\t\"event_type\" : \"message.received\" ,\n \"a\" : [ 1 , { } , [ ] ] } \n",
	"a prototype":              `{"event_type":"message.received","__proto__":{"a":1},"constructor":null,"toString":0}`,
	"an id in the middle":      `{"z":1,"event_id":"in-the-middle","event_type":"message.received","a":2}`,
	"empty names":              `{"event_type":"message.received","":{"":[null,true,false,""]}}`,
	"a type with escapes":      `{"\u0065vent_type":"message\u002ereceived"}`,
}

func TestBothFamiliesOfVerifiersAcceptWhatWeSend(t *testing.T) {
	key := staffetta.NewSigningKey()
	v := startVerifier(t, key, staffetta.NewSigningKey())
	l := startLive(t, t.TempDir(), quickRetries)
	l.workspace("acme")
	l.signed(v.url+"/flaky", key)

	payloads := staffetta.SampleVariants()
	for _, known := range staffetta.DefaultCatalogue().Types() {
		payloads[known.Name] = staffetta.Sample(known.Name)
	}
	for name, payload := range nastyPayloads {
		payloads[name] = []byte(payload)
	}
	names := slices.Sorted(maps.Keys(payloads))
	for _, name := range names {
		l.event("acme", string(payloads[name]))
	}
	attempts := v.wait(t, "/flaky", 2*len(names))
	if len(attempts) != 2*len(names) {
		t.Fatalf("%d attempts of %d events", len(attempts), len(names))
	}
	for i, name := range names {
		first, second := attempts[2*i], attempts[2*i+1]
		first.check(t, name, keyPlaces{[]int{0}, []int{0}})
		second.check(t, name, keyPlaces{[]int{0}, []int{0}})
		if first.Attempt != 1 || second.Attempt != 2 || first.Body != second.Body || first.ID != second.ID {
			t.Errorf("%s: attempt %d of %s and attempt %d of %s are not of the same bytes", name, first.Attempt, first.ID, second.Attempt, second.ID)
		}
	}
}

func TestAReceiverThatHoldsBothKeysNeverMissesDuringARotation(t *testing.T) {
	keys := []string{staffetta.NewSigningKey(), staffetta.NewSigningKey(), staffetta.NewSigningKey(), staffetta.NewSigningKey()}
	v := startVerifier(t, keys...)
	l := startLive(t, t.TempDir(), quickRetries)
	l.workspace("acme")
	endpoint := l.signed(v.url+"/hook", keys[0])
	posted := 0
	post := func() verified {
		posted++
		l.event("acme", `{"event_type":"message.received","1":"\u00e8 \u003c","n":1.0}`)
		return v.wait(t, "/hook", posted)[posted-1]
	}
	rotate := func(key int, overlap string) {
		l.must(200, "POST", endpoint+"/rotate-key", fmt.Sprintf(`{"signing_key":%q,"overlap":%q}`, keys[key], overlap))
	}

	post().check(t, "before", keyPlaces{[]int{0}, []int{0}})
	rotate(1, "1h")
	post().check(t, "in the overlap", keyPlaces{[]int{0}, []int{0, 1}})
	rotate(2, "0s")
	post().check(t, "after a rotation without an overlap", keyPlaces{[]int{2}, []int{2}})
	rotate(3, "2s")
	inOverlap, after := keyPlaces{[]int{2}, []int{2, 3}}, keyPlaces{[]int{3}, []int{3}}
	overlap, begun := post(), time.Now()
	overlap.check(t, "in the overlap of two seconds", inOverlap)
	if overlap.Signatures != 2 {
		t.Errorf("in the overlap there are %d signatures", overlap.Signatures)
	}
	var last verified
	eventually(t, 20*time.Second, "the end of the overlap", func() bool {
		last = post()
		if reflect.DeepEqual(last.Raw, inOverlap) {
			last.check(t, "in the overlap of two seconds", inOverlap)
			return false
		}
		return true
	})
	last.check(t, "after the overlap", after)
	if last.Signatures != 1 {
		t.Errorf("after the overlap there are %d signatures", last.Signatures)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the overlap of two seconds ended after %v", took)
	}
}

// A retry is signed anew: what was rotated since the first attempt counts.
func TestARetryAfterARotationVerifiesUnderTheKeysOfItsTime(t *testing.T) {
	keys := []string{staffetta.NewSigningKey(), staffetta.NewSigningKey()}
	v := startVerifier(t, keys...)
	l := startLive(t, t.TempDir(), func(s *relaySettings) { s.policy.Retry = []time.Duration{2 * time.Second} })
	l.workspace("acme")
	endpoint := l.signed(v.url+"/flaky", keys[0])
	l.event("acme", `{"event_type":"message.received","2":1.50,"1":"\ud83d\ude00"}`)
	v.wait(t, "/flaky", 1)[0].check(t, "before", keyPlaces{[]int{0}, []int{0}})
	l.must(200, "POST", endpoint+"/rotate-key", fmt.Sprintf(`{"signing_key":%q,"overlap":"1h"}`, keys[1]))
	attempts := v.wait(t, "/flaky", 2)
	attempts[1].check(t, "after", keyPlaces{[]int{0}, []int{0, 1}})
	if attempts[0].Body != attempts[1].Body || attempts[1].Attempt != 2 {
		t.Errorf("the retry is attempt %d, its body the same: %v", attempts[1].Attempt, attempts[0].Body == attempts[1].Body)
	}
}
