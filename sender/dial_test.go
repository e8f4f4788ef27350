package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// testResolver asks a name server on loopback that answers every question for an IPv4 address with
// what answer gives: nil is no answer at all, an empty list says that the name does not exist.
func testResolver(t testing.TB, answer func(name string) []netip.Addr) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := dnsReply(buf[:n], answer); reply != nil {
				_, _ = server.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// dnsReply answers one question: header, the question as it came, the addresses.
func dnsReply(query []byte, answer func(string) []netip.Addr) []byte {
	const headerSize, typeA = 12, 1
	var labels []string
	end := headerSize
	for query[end] != 0 {
		labels = append(labels, string(query[end+1:end+1+int(query[end])]))
		end += 1 + int(query[end])
	}
	question := query[headerSize : end+5]
	var addrs []netip.Addr
	flags := uint16(0x8580) // a response, authoritative, recursion as asked
	if binary.BigEndian.Uint16(query[end+1:]) == typeA {
		if addrs = answer(strings.Join(labels, ".")); addrs == nil {
			return nil
		} else if len(addrs) == 0 {
			flags |= 3 // no such name
		}
	} else if answer("") == nil {
		return nil
	}
	reply := append([]byte{}, query[:2]...)
	for _, field := range []uint16{flags, 1, uint16(len(addrs)), 0, 0} {
		reply = binary.BigEndian.AppendUint16(reply, field)
	}
	reply = append(reply, question...)
	for _, addr := range addrs {
		// A pointer to the name in the question, type A, class IN, 0 s to live, 4 bytes.
		reply = append(reply, 0xc0, headerSize, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, addr.AsSlice()...)
	}
	return reply
}

func fixed(addrs ...string) func(string) []netip.Addr {
	list := []netip.Addr{}
	for _, addr := range addrs {
		list = append(list, netip.MustParseAddr(addr))
	}
	return func(string) []netip.Addr { return list }
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func TestNameThatTurnsToAnotherAddressIsGuardedAtEveryDial(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	peer := testPeer(t, func(conn net.Conn) {
		reached.Add(1)
		writing("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")(conn)
	})
	// 127.0.0.1, which the guard allows here, stands for a public address.
	addrs := []string{"127.0.0.1", "127.0.0.2", "10.0.0.1", "169.254.169.254", "0.0.0.0"}
	var questions atomic.Int32
	resolver := testResolver(t, func(name string) []netip.Addr {
		if name == "" {
			return []netip.Addr{}
		}
		return fixed(addrs[questions.Add(1)-1])(name)
	})
	e := testEndpoint(t, testClient(t, ClientConfig{Resolver: resolver}), "w", "http://rebind.test:"+portOf(peer))
	for i := range addrs {
		var a Attempt
		e.Attempt(t.Context(), testEvent, 1, &a)
		switch {
		case i == 0 && (a.Outcome.Status != 200 || a.Remote != peer || a.DNS <= 0):
			t.Fatalf("the allowed address: %v at %q, DNS %v", a.Outcome, a.Remote, a.DNS)
		case i > 0 && (a.Outcome.Error != staffetta.ErrorForbidden || a.Remote != ""):
			t.Errorf("%s: %v at %q", addrs[i], a.Outcome, a.Remote)
		case i > 0 && strings.Contains(a.Outcome.Detail, addrs[i]):
			t.Errorf("%s: the detail tells it: %q", addrs[i], a.Outcome.Detail)
		}
	}
	if n := reached.Load(); n != 1 {
		t.Errorf("%d connections came, want 1", n)
	}
}

func TestSpellingsOfAForbiddenAddressAreNeverDialled(t *testing.T) {
	t.Parallel()
	peer := testPeer(t, func(conn net.Conn) { t.Errorf("%v was reached", conn.LocalAddr()) })
	// The worst name server: whatever is asked, it answers with loopback.
	c := testClient(t, ClientConfig{
		Resolver: testResolver(t, fixed("127.0.0.1")),
		Guard:    Guard{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
	})
	for host, want := range map[string]staffetta.ErrorKind{
		"127.0.0.1":          staffetta.ErrorForbidden,
		"[::1]":              staffetta.ErrorForbidden,
		"[::ffff:127.0.0.1]": staffetta.ErrorForbidden,
		"[::ffff:7f00:1]":    staffetta.ErrorForbidden,
		"[64:ff9b::7f00:1]":  staffetta.ErrorForbidden,
		"[::]":               staffetta.ErrorForbidden,
		"0.0.0.0":            staffetta.ErrorForbidden,
		"localhost":          staffetta.ErrorForbidden,
		"LOCALHOST":          staffetta.ErrorForbidden,
		"localhost.":         staffetta.ErrorForbidden,
		"public.test":        staffetta.ErrorForbidden,
		// All digits and dots: neither an address in Go's eyes nor a name, so nobody is asked.
		"2130706433":   staffetta.ErrorDNS,
		"0177.0.0.1":   staffetta.ErrorDNS,
		"017700000001": staffetta.ErrorDNS,
		"127.1":        staffetta.ErrorDNS,
		"127.0.1":      staffetta.ErrorDNS,
		"127.0.0.1.":   staffetta.ErrorDNS,
		"127.0.0.01":   staffetta.ErrorDNS,
		"0":            staffetta.ErrorDNS,
		// With a letter it is a name: the name server is asked, and the guard sees its answer.
		"0x7f.1":           staffetta.ErrorForbidden,
		"0x7f000001":       staffetta.ErrorForbidden,
		"0x7f.0x0.0x0.0x1": staffetta.ErrorForbidden,
		"127.0.0.1.test":   staffetta.ErrorForbidden,
	} {
		a := attempt(t, c, "http://"+host+":"+portOf(peer)+"/")
		if a.Outcome.Error != want || a.Remote != "" {
			t.Errorf("%s: %v at %q, want %v", host, a.Outcome, a.Remote, want)
		}
	}
}

func TestAddressThatIsNotForbiddenIsFoundAmongOthers(t *testing.T) {
	t.Parallel()
	peer := testPeer(t, writing(okAnswer))
	c := testClient(t, ClientConfig{Resolver: testResolver(t, fixed("127.0.0.2", "10.0.0.1", "127.0.0.1"))})
	if a := attempt(t, c, "http://mixed.test:"+portOf(peer)); a.Outcome.Status != 200 || a.Remote != peer {
		t.Errorf("%v at %q", a.Outcome, a.Remote)
	}
}

func TestNamesThatDoNotResolve(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(string) []netip.Addr
		kind   staffetta.ErrorKind
	}{
		"does not exist": {fixed(), staffetta.ErrorDNS},
		"never answered": {func(string) []netip.Addr { return nil }, staffetta.ErrorTimeout},
	} {
		c := testClient(t, ClientConfig{Deadline: 300 * time.Millisecond, Resolver: testResolver(t, test.answer)})
		a := attempt(t, c, "http://absent.test/?secret=1")
		if a.Outcome.Error != test.kind || a.Remote != "" || strings.Contains(a.Outcome.Detail, "secret") {
			t.Errorf("%s: %v at %q", name, a.Outcome, a.Remote)
		}
		if a.DNS <= 0 || a.DNS > a.Duration || a.Duration > 600*time.Millisecond {
			t.Errorf("%s: DNS %v of %v", name, a.DNS, a.Duration)
		}
	}
	broken := testClient(t, ClientConfig{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, io.ErrClosedPipe
	}}})
	if a := attempt(t, broken, "http://absent.test/"); a.Outcome.Error != staffetta.ErrorDNS {
		t.Errorf("no name server: %v", a.Outcome)
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	a := attempt(t, testClient(t, ClientConfig{}), "http://"+listener.Addr().String())
	if a.Outcome.Error != staffetta.ErrorRefused || a.Remote != listener.Addr().String() {
		t.Errorf("%v at %q", a.Outcome, a.Remote)
	}
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	proxy := testPeer(t, func(net.Conn) { t.Error("the proxy was used") })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "http://"+proxy)
	}
	t.Setenv("NO_PROXY", "")
	peer := testPeer(t, writing(okAnswer))
	// Proxies are never used for addresses that are loopback by their looks; a name is not.
	c := testClient(t, ClientConfig{Resolver: testResolver(t, fixed("127.0.0.1"))})
	if a := attempt(t, c, "http://peer.test:"+portOf(peer)); a.Outcome.Status != 200 {
		t.Error(a.Outcome)
	}
}

// testTLSPeer is an https server with a certificate for example.com and 127.0.0.1.
func testTLSPeer(t *testing.T) (address string, roots *x509.CertPool) {
	server, roots := testTLSServer(t)
	return server.Listener.Addr().String(), roots
}

func testTLSServer(t *testing.T) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, r.Proto, " ", len(body))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server, roots
}

func TestTLSWithPrivateRoots(t *testing.T) {
	t.Parallel()
	peer, roots := testTLSPeer(t)
	c := testClient(t, ClientConfig{TLSConfig: &tls.Config{RootCAs: roots}, Resolver: testResolver(t, fixed("127.0.0.1"))})
	for _, url := range []string{"https://" + peer, "https://example.com:" + portOf(peer), "https://example.com.:" + portOf(peer)} {
		e := testEndpoint(t, c, "w", url)
		for n := range 2 {
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			if want := fmt.Sprint("HTTP/1.1 ", len(testEvent.Payload)); a.Outcome.Status != 200 || string(a.Body) != want {
				t.Fatalf("%s: %v, body %q", url, a.Outcome, a.Body)
			}
			if a.Reused != (n == 1) || a.Reused != (a.TLS == 0) {
				t.Errorf("%s: reused %v, TLS %v", url, a.Reused, a.TLS)
			}
		}
		e.Close()
	}
}

func TestTLSFailures(t *testing.T) {
	t.Parallel()
	peer, roots := testTLSPeer(t)
	plain, closing := testPeer(t, holding("HTTP/1.1 400 Bad Request\r\n\r\n")), testPeer(t, func(net.Conn) {})
	speaking := testPeer(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "220 mail.test ESMTP\r\n") })
	picky := testPeer(t, func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{}).HandshakeContext(t.Context())
	})
	resolver := testResolver(t, fixed("127.0.0.1"))
	expired := func() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }
	for name, test := range map[string]struct {
		url    string
		cfg    *tls.Config
		detail string
	}{
		"unknown authority": {"https://" + peer, nil, "unknown authority"},
		"another host":      {"https://other.test:" + portOf(peer), &tls.Config{RootCAs: roots}, "another host"},
		"expired":           {"https://" + peer, &tls.Config{RootCAs: roots, Time: expired}, "expired"},
		"old version":       {"https://" + peer, &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS10, MinVersion: tls.VersionTLS10}, "TLS handshake"},
		"no TLS":            {"https://" + speaking, nil, "does not speak TLS"},
		"waits for HTTP":    {"https://" + closing, nil, "closed the connection"},
		"alert":             {"https://" + picky, nil, "refused the TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			a := attempt(t, testClient(t, ClientConfig{TLSConfig: test.cfg, Resolver: resolver}), test.url)
			if a.Outcome.Error != staffetta.ErrorTLS || !strings.Contains(a.Outcome.Detail, test.detail) || a.Remote == "" {
				t.Errorf("%v at %q, want %q in it", a.Outcome, a.Remote, test.detail)
			}
		})
	}
	// A server without TLS that waits for a line's end, as HTTP servers do.
	if a := attempt(t, testClient(t, ClientConfig{Deadline: 300 * time.Millisecond}), "https://"+plain); a.Outcome.Error != staffetta.ErrorTimeout && a.Outcome.Error != staffetta.ErrorTLS {
		t.Error(a.Outcome)
	}
	// The other way round: plain HTTP to a port that speaks TLS.
	if a := attempt(t, testClient(t, ClientConfig{}), "http://"+peer); a.Outcome.Status != 400 {
		t.Error(a.Outcome)
	}
}

// The farewell of TLS is a write too, and would wait 5 s for a peer that does not read.
func TestTLSPeerThatDoesNotReadHoldsNothingUpAtTheClose(t *testing.T) {
	t.Parallel()
	server, roots := testTLSServer(t)
	peer := testPeer(t, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		if tls.Server(conn, &tls.Config{Certificates: server.TLS.Certificates}).HandshakeContext(t.Context()) == nil {
			<-t.Context().Done()
		}
	})
	e := testEndpoint(t, testClient(t, ClientConfig{Deadline: 500 * time.Millisecond, TLSConfig: &tls.Config{RootCAs: roots}}), "w", "https://"+peer)
	ev := testEvent
	ev.Payload = make([]byte, 8<<20)
	var a Attempt
	began := time.Now()
	e.Attempt(t.Context(), ev, 1, &a)
	if took := time.Since(began); a.Outcome.Error != staffetta.ErrorTimeout || a.TLS == 0 || took > time.Second {
		t.Errorf("%v after %v", a.Outcome, took)
	}
}
