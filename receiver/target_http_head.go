package receiver

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/staffetta-relay/staffetta/sender"
)

// ourHeaders are the headers that the receiver writes itself, in lower case.
var ourHeaders = []string{
	"connection", "content-length", "expect", "host", "staffetta-attempt", "staffetta-event-id",
	"te", "trailer", "transfer-encoding", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
}

func isOurHeader(name string) bool {
	_, found := slices.BinarySearch(ourHeaders, strings.ToLower(name))
	return found
}

// head writes the head of the request. It reports false for one that would break it.
func (h *httpHandler) head(r *Request, e *sender.Entry, n int) ([]byte, bool) {
	path := h.path
	if h.appends {
		path += strings.TrimPrefix(originForm(r.URI), "/")
	}
	if !isToken(r.Method) || strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return nil, false
	}
	dst := make([]byte, 0, 1<<10)
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	dst = append(dst, path...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, h.host...)
	replay := e.Event.Replay || r.Replay
	var forwarded []string
	for _, f := range r.Header {
		switch {
		case strings.EqualFold(f.Name, "X-Forwarded-For"):
			forwarded = append(forwarded, f.Value)
			continue
		case isOurHeader(f.Name), h.sets(f.Name), replay && strings.EqualFold(f.Name, "Staffetta-Replay"):
			continue
		case !isHeaderName(f.Name) || !isHeaderValue(f.Value):
			return nil, false
		}
		dst = appendHeader(dst, f.Name, f.Value)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		dst = appendHeader(dst, name, h.Headers[name])
	}
	return appendOwnHeaders(dst, r, forwarded, replay, e.Event.ID, n)
}

// sets reports whether the configuration has the header.
func (h *httpHandler) sets(name string) bool {
	for set := range h.Headers {
		if strings.EqualFold(set, name) {
			return true
		}
	}
	return false
}

func appendOwnHeaders(dst []byte, r *Request, forwarded []string, replay bool, id string, n int) ([]byte, bool) {
	proto := "http"
	if r.TLS {
		proto = "https"
	}
	own := [...]HeaderField{
		{"X-Forwarded-For", forwardedFor(forwarded, r.Remote)},
		{"X-Forwarded-Proto", proto},
		{"X-Forwarded-Host", r.Host},
		{"Staffetta-Event-Id", id},
		{"Staffetta-Attempt", strconv.Itoa(n)},
	}
	for _, f := range own {
		if !isHeaderValue(f.Value) {
			return nil, false
		}
		if f.Value != "" {
			dst = appendHeader(dst, f.Name, f.Value)
		}
	}
	if replay {
		dst = appendHeader(dst, "Staffetta-Replay", "true")
	}
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(r.Body)), 10)
	return append(dst, "\r\n\r\n"...), true
}

func appendHeader(dst []byte, name, value string) []byte {
	dst = append(dst, "\r\n"...)
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	return append(dst, value...)
}

// originForm is the path and query of a request target; it may have come with a scheme and a host.
func originForm(uri string) string {
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	if _, rest, found := strings.Cut(uri, "://"); found {
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			return rest[i:]
		}
		return ""
	}
	return uri
}

// forwardedFor is the chain of addresses that came in, with remote, the client's, as the last: what
// stands behind it in the chain are trusted proxies, or made up.
func forwardedFor(lines []string, remote string) string {
	var chain []string
	for _, line := range lines {
		for address := range strings.SplitSeq(line, ",") {
			if address = strings.TrimSpace(address); address != "" {
				chain = append(chain, address)
			}
		}
	}
	if remote == "" {
		return strings.Join(chain, ", ")
	}
	for i, address := range slices.Backward(chain) {
		if address == remote {
			return strings.Join(chain[:i+1], ", ")
		}
	}
	return strings.Join(append(chain, remote), ", ")
}

func isHeaderName(s string) bool { return isToken(s) }

// isToken reports whether s is a token of HTTP: one or more of a set of ASCII characters.
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	}) < 0
}

func isHeaderValue(s string) bool {
	return strings.TrimSpace(s) == s && strings.IndexFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) < 0
}
