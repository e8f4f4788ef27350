package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// The shapes that the fuzzer's bytes are sent in.
const (
	fuzzRaw = iota
	fuzzHeaders
	fuzzPath
	fuzzEvent
	fuzzBatch
	fuzzChunks
	fuzzEndpoint
	fuzzShapes
)

// fuzzRequest puts the bytes into a request of the shape.
func fuzzRequest(shape uint8, data []byte) []byte {
	switch shape % fuzzShapes {
	case fuzzHeaders:
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer %s\r\n%s\r\n%s%s", acmeEvents, testAdminKey, data, "\r\n", rawEvent)
	case fuzzPath:
		return fmt.Appendf(nil, "POST /v1/%s HTTP/1.1\r\n%s%s\r\n%s", data, rawHeaders, rawLength, rawEvent)
	case fuzzEvent:
		return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", rawPost, len(data), data)
	case fuzzBatch:
		return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", strings.Replace(rawPost, "json", "x-ndjson", 1), len(data), data)
	case fuzzChunks:
		return fmt.Appendf(nil, "%s%s\r\n%s", rawPost, rawChunked, data)
	case fuzzEndpoint:
		return fmt.Appendf(nil, "POST /v1/workspaces/acme/endpoints HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", rawHeaders, len(data), data)
	default:
		return data
	}
}

// fuzzStatuses are those that whatever is sent may come to.
var fuzzStatuses = []int{100, 200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 431}

// checkFuzzReply fails the test on an answer that no request may get.
func checkFuzzReply(t *testing.T, r reply) {
	t.Helper()
	if !slices.Contains(fuzzStatuses, r.status) {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	if len(r.body) == 0 || r.status == 100 {
		return
	}
	var m map[string]any
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatalf("status %d, and no JSON: %q", r.status, r.body)
	}
	problem := r.header.Get("Content-Type") == "application/problem+json"
	if problem != (r.status >= 400) || problem && (m["code"] == nil || m["status"] != float64(r.status)) {
		t.Fatalf("status %d of type %s: %s", r.status, r.header.Get("Content-Type"), r.body)
	}
}

func addIntakeSeeds(f *testing.F) {
	for _, request := range notHTTP {
		f.Add(uint8(fuzzRaw), []byte(request))
	}
	f.Add(uint8(fuzzRaw), []byte(rawWhole+rawWhole))
	f.Add(uint8(fuzzRaw), []byte("GET /v1/workspaces?limit=1&cursor=x HTTP/1.1\r\n"+rawHeaders+"\r\n"))
	f.Add(uint8(fuzzHeaders), []byte("Content-Length: 33\r\nContent-Type: application/json\r\nIdempotency-Key: k"))
	f.Add(uint8(fuzzHeaders), []byte("Content-Length: 33\r\nExpect: 100-continue\r\nContent-Encoding: gzip"))
	for _, path := range []string{"workspaces//events", "workspaces/acme/../acme/events", "workspaces/%zz/endpoints", "workspaces/acme/endpoints/x/test", "event-types", "openapi.json"} {
		f.Add(uint8(fuzzPath), []byte(path))
	}
	for _, sample := range staffetta.SampleVariants() {
		f.Add(uint8(fuzzEvent), sample)
	}
	for _, body := range []string{rawEvent, `{"event_type":"message.received","event_id":"x","a":[1e21,-0,"\ud83d\ude00"]}`, "\xef\xbb\xbf{}", "[]", "{"} {
		f.Add(uint8(fuzzEvent), []byte(body))
		f.Add(uint8(fuzzBatch), []byte(body+"\n\n"+body))
	}
	f.Add(uint8(fuzzChunks), []byte(rawChunk))
	f.Add(uint8(fuzzChunks), []byte("1;x=y\r\n{\r\n7fffffffffffffff\r\n"))
	f.Add(uint8(fuzzEndpoint), []byte(`{"url":"http://127.0.0.1:1/","event_types":["message.received"],"headers":{"X-A":"b"},"signing_key":"AAAA"}`))
}

// FuzzIntake sends anything to a whole relay: each answer is one that the contract knows, and the
// relay goes on.
func FuzzIntake(f *testing.F) {
	addIntakeSeeds(f)
	// A socket of a file has both ends closed one by one, as TCP has, and uses up no ports.
	socket := filepath.Join(f.TempDir(), "api")
	api, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	dial := func() (*net.UnixConn, error) {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	}
	l := startLive(f, f.TempDir(), func(s *relaySettings) { s.listener = api })
	l.address = "relay"
	l.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return dial() }
	l.workspace("acme")
	exchange := func(t *testing.T, request []byte) (replies []reply) {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(request) // the relay may close before it has read all
		_ = c.CloseWrite()
		for in := bufio.NewReader(c); ; {
			r, err := readReply(in)
			if err != nil {
				return replies
			}
			replies = append(replies, r)
		}
	}
	f.Fuzz(func(t *testing.T, shape uint8, data []byte) {
		for _, r := range exchange(t, fuzzRequest(shape, data)) {
			checkFuzzReply(t, r)
		}
		if after := exchange(t, []byte("GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")); len(after) != 1 || after[0].status != http.StatusOK {
			t.Fatalf("the relay is not well: %v", after)
		}
	})
}
