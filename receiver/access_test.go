package receiver

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestTheClientIsTheLastAddressThatIsNoTrustedProxy(t *testing.T) {
	trusted, err := ParseNetworks([]string{"10.0.0.0/8", "192.0.2.1", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ peer, forwarded, want string }{
		{"203.0.113.9", "", "203.0.113.9"},
		{"203.0.113.9", "198.51.100.1", "203.0.113.9"}, // a stranger may say what he likes
		{"10.1.1.1", "198.51.100.1", "198.51.100.1"},
		{"10.1.1.1", "6.6.6.6, 198.51.100.1, 192.0.2.1", "198.51.100.1"},
		{"10.1.1.1", "198.51.100.1:4711", "198.51.100.1"},
		{"10.1.1.1", "[2001:db8::1]:4711", "2001:db8::1"},
		{"10.1.1.1", "10.2.2.2", "10.2.2.2"},
		{"10.1.1.1", "nonsense", "10.1.1.1"},
		{"10.1.1.1", "", "10.1.1.1"},
		{"::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"},
	} {
		peer := &net.TCPAddr{IP: net.ParseIP(c.peer)}
		if got := clientAddress(peer, []byte(c.forwarded), trusted); got.String() != c.want {
			t.Errorf("%s forwarding %q is %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	if _, err := ParseNetworks([]string{"10.0.0.0/99"}); err == nil {
		t.Error("a CIDR that is none is taken")
	}
}

func TestASourceIsNamedAfterItsPath(t *testing.T) {
	for path, want := range map[string]string{
		"/hooks/respond": "hooks-respond", "/": "root", "/a__b": "a_-b", "/weiß": "wei-",
	} {
		if got := nameOf(path); got != want {
			t.Errorf("%s is named %s, want %s", path, got, want)
		}
	}
	long := "/integrations/webhooks/respond.io/production/eu"
	if a, b := nameOf(long), nameOf(long+"2"); checkName(a) != nil || a == b {
		t.Errorf("long paths are named %s and %s", a, b)
	}
}

// A proxy may append to the line that came, or add one of its own: the last address counts.
func TestEveryLineOfXForwardedForCounts(t *testing.T) {
	r := runReceiver(t, startStore(t, t.TempDir()), onLoopback, func(c *Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Sources[0].Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	})
	mounted := httptest.NewServer(r.Handler())
	t.Cleanup(mounted.Close)
	for way, url := range map[string]string{"intake": "http://" + r.Addr().String(), "handler": mounted.URL} {
		for i, c := range []struct {
			lines []string
			want  int
		}{
			{nil, http.StatusForbidden},
			{[]string{"203.0.113.9"}, http.StatusOK},
			{[]string{"203.0.113.9, 198.51.100.7"}, http.StatusForbidden},
			{[]string{"203.0.113.9", "198.51.100.7"}, http.StatusForbidden},
			{[]string{"198.51.100.7", "203.0.113.9"}, http.StatusOK},
			{[]string{"198.51.100.7, 203.0.113.9", "127.0.0.2"}, http.StatusOK},
			{[]string{"203.0.113.9", "198.51.100.7", "127.0.0.2, 127.0.0.3"}, http.StatusForbidden},
		} {
			q, err := http.NewRequest(http.MethodPost, url+"/hooks", strings.NewReader(fmt.Sprintf(`{"event_id":"%s-%d"}`, way, i)))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range c.lines {
				q.Header.Add("X-Forwarded-For", line)
			}
			resp, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode != c.want {
				t.Errorf("%s: a webhook with X-Forwarded-For %q is answered with %d, want %d", way, c.lines, resp.StatusCode, c.want)
			}
		}
	}
}
