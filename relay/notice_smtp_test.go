package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp/fasthttputil"
	"github.com/wneessen/go-mail"
)

const (
	mailUser     = "relay@mail.example"
	mailPassword = "p@ss word/ü"
)

// mailServer is a real SMTP server in memory, so that it runs in a bubble.
type mailServer struct {
	listener *fasthttputil.InmemoryListener
	server   *smtp.Server
	done     chan struct{}
	tls      *tls.Config // for a client, with the server's certificate
	mechs    []string
	serve    net.Listener

	mu sync.Mutex
	// down refuses connections; rcpt answers a recipient, data a mail once it is taken.
	down  bool
	rcpt  func(to string) error
	data  func(to string) error
	dials []time.Time
	mails []receivedMail
}

type receivedMail struct {
	from, to, user string
	encrypted      bool
	at             time.Time
	raw            string
}

type mailSession struct {
	server *mailServer
	conn   *smtp.Conn
	mail   receivedMail
}

// startMailServer offers STARTTLS and, once a connection is encrypted, AUTH PLAIN and LOGIN.
func startMailServer(t testing.TB, change ...func(*mailServer)) *mailServer {
	t.Helper()
	m := &mailServer{listener: fasthttputil.NewInmemoryListener(), done: make(chan struct{}), mechs: []string{sasl.Plain, sasl.Login}}
	m.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &mailSession{server: m, conn: c}, nil
	}))
	m.server.Domain, m.server.ReadTimeout, m.server.WriteTimeout = "mail.example", time.Minute, time.Minute
	m.server.ErrorLog = noSMTPLog{}
	m.server.TLSConfig, m.tls = certificate(t)
	m.serve = m.listener
	for _, f := range change {
		f(m)
	}
	go func() {
		defer close(m.done)
		_ = m.server.Serve(m.serve)
	}()
	t.Cleanup(m.stop)
	return m
}

type noSMTPLog struct{}

func (noSMTPLog) Printf(string, ...any) {}
func (noSMTPLog) Println(...any)        {}

func (m *mailServer) stop() {
	_ = m.listener.Close()
	_ = m.server.Close()
	<-m.done
}

// config is for a relay that sends over this server.
func (m *mailServer) config(url string) *MailConfig {
	return &MailConfig{
		URL: url, From: "Webhooks <webhooks@relay.example>", PublicURL: "https://relay.example", TLS: m.tls,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.dials = append(m.dials, time.Now())
			if m.down {
				return nil, errors.New("connection refused")
			}
			return m.listener.Dial()
		},
	}
}

const mailURL = "smtp://relay%40mail.example:p%40ss%20word%2F%C3%BC@mail.example?starttls=require"

func (m *mailServer) set(f func(*mailServer)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func (m *mailServer) received() []receivedMail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]receivedMail(nil), m.mails...)
}

func (s *mailSession) AuthMechanisms() []string { return s.server.mechs }

func (s *mailSession) Auth(mech string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != mailUser || password != mailPassword {
			return smtp.ErrAuthFailed
		}
		s.mail.user = user
		return nil
	}
	if mech == sasl.Login {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
}

// loginServer is the server's side of AUTH LOGIN.
type loginServer struct {
	check func(user, password string) error
	step  int
	user  string
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(response)
		return []byte("Password:"), false, nil
	default:
		return nil, true, l.check(l.user, string(response))
	}
}

func (s *mailSession) Reset()        { s.mail.to = "" }
func (s *mailSession) Logout() error { return nil }

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	_, s.mail.encrypted = s.conn.TLSConnectionState()
	s.mail.from = from
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.mail.to = to
	if s.server.rcpt != nil {
		return s.server.rcpt(to)
	}
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if s.server.data != nil {
		if err := s.server.data(s.mail.to); err != nil {
			return err
		}
	}
	s.mail.raw, s.mail.at = string(raw), time.Now()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

// certificate is of mail.example, valid at every time, also in a bubble's year 2000.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mail.example"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}

// sendOne sends a short mail over a connection of its own.
func sendOne(t *testing.T, cfg *MailConfig, to string) (fate, error) {
	t.Helper()
	p, err := newPostman(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.visit(t.Context())
	if err != nil {
		return mailServerFailed, err
	}
	defer v.end()
	return v.send(writtenLetter{Subject: "s", Text: "t", HTML: "h", Language: "en"}, to, "id", time.Now())
}

func TestAMailIsSentByEveryWayThatTheURLCanSay(t *testing.T) {
	const user = "relay%40mail.example:p%40ss%20word%2F%C3%BC@"
	plain := func(m *mailServer) { m.server.TLSConfig = nil }
	inClear := func(m *mailServer) { plain(m); m.server.AllowInsecureAuth = true }
	for name, c := range map[string]struct {
		url       string
		change    func(*mailServer)
		encrypted bool
		user      string
		fails     string
	}{
		"STARTTLS where it is offered":                {url: "smtp://" + user + "mail.example", encrypted: true, user: mailUser},
		"STARTTLS where it is demanded":               {url: mailURL, encrypted: true, user: mailUser},
		"no STARTTLS where it is demanded":            {url: mailURL, change: plain, fails: "STARTTLS"},
		"no user":                                     {url: "smtp://mail.example:2525", encrypted: true},
		"AUTH LOGIN":                                  {url: mailURL, change: func(m *mailServer) { m.mechs = []string{sasl.Login} }, encrypted: true, user: mailUser},
		"no TLS and no user":                          {url: "smtp://mail.example?starttls=no", change: plain},
		"a password in clear that the URL allows":     {url: "smtp://" + user + "mail.example?starttls=no", change: inClear, user: mailUser},
		"a password in clear that it does not allow":  {url: "smtp://" + user + "mail.example", change: inClear, fails: "unencrypted"},
		"an unknown way to authenticate":              {url: mailURL, change: func(m *mailServer) { m.mechs = []string{"XYZ"} }, fails: "no way to authenticate"},
		"a wrong password":                            {url: "smtp://" + mailUserEscaped + ":wrong-password@mail.example", fails: "535"},
		"a certificate of another name":               {url: "smtp://other.example", fails: "certificate"},
		"TLS from the first byte, and authentication": {url: "smtps://" + user + "mail.example", change: implicitTLS, encrypted: true, user: mailUser},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var change []func(*mailServer)
				if c.change != nil {
					change = append(change, c.change)
				}
				m := startMailServer(t, change...)
				f, err := sendOne(t, m.config(c.url), "ops@acme.example")
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "wrong-password") {
						t.Errorf("got %v, want an error about %s", err, c.fails)
					}
					return
				}
				got := m.received()
				if err != nil || f != mailSent || len(got) != 1 {
					t.Fatalf("fate %d, %v, %d mails", f, err, len(got))
				}
				if got[0].encrypted != c.encrypted || got[0].user != c.user || got[0].from != "webhooks@relay.example" || got[0].to != "ops@acme.example" {
					t.Errorf("got %+v", got[0])
				}
			})
		})
	}
}

const mailUserEscaped = "relay%40mail.example"

// implicitTLS lets the server speak TLS from the first byte.
func implicitTLS(m *mailServer) { m.serve = tls.NewListener(m.listener, m.server.TLSConfig) }

func TestAnSMTPURLThatCannotBeUsedIsRefusedWithoutShowingIt(t *testing.T) {
	for _, url := range []string{
		"", "mail.example", "http://u:secret@mail.example", "smtp://", "smtp://u:secret@:25", "smtp://u:secret@mail.example:0",
		"smtp://u:secret@mail.example:99999", "smtp://u:secret@mail.example/path", "smtp://u:secret@mail.example#x",
		"smtp://u@mail.example", "smtp://:secret@mail.example", "smtp://u:secret@mail.example?starttls=maybe",
		"smtps://u:secret@mail.example?starttls=require", "smtp://u:secret@mail.example?tls=1", "smtp://u:%zzsecret@mail.example",
	} {
		_, err := newPostman(MailConfig{URL: url, From: "a@b.example"})
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "smtp-url: ") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, from := range []string{"", "nobody", "a@b.example\r\nBcc: c@d.example"} {
		if _, err := newPostman(MailConfig{URL: "smtp://mail.example", From: from}); err == nil {
			t.Errorf("from %q passes", from)
		}
	}
	for _, url := range []string{"relay.example", "https://relay.example/'; rm -rf", "https://relay.example/$(id)", "https://u:p@relay.example"} {
		if _, err := newPostman(MailConfig{URL: "smtp://mail.example", From: "a@b.example", PublicURL: url}); err == nil {
			t.Errorf("public URL %q passes", url)
		}
	}
	for url, want := range map[string]string{
		"smtp://mail.example": "mail.example:587", "smtps://mail.example": "mail.example:465", "smtp://[::1]:25": "[::1]:25",
	} {
		p, err := newPostman(MailConfig{URL: url, From: "a@b.example"})
		if err != nil || p.address != want {
			t.Errorf("%s: %v, %+v", url, err, p)
		}
	}
}

func TestAPasswordThatTheServerRepeatsIsTakenOut(t *testing.T) {
	p := &postman{password: "hunter2"}
	if got := p.hide(errors.New("535 bad password hunter2")).Error(); got != "535 bad password …" {
		t.Error(got)
	}
	plain := errors.New("451 later")
	if got := p.hide(plain); !errors.Is(got, plain) {
		t.Error(got)
	}
}

func TestOnlyAMailThatIsRefusedForGoodIsGivenUp(t *testing.T) {
	reply := func(code int, message string) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: message}
	}
	for _, c := range []struct {
		name       string
		rcpt, data error
		want       fate
	}{
		{"taken", nil, nil, mailSent},
		{"no such user", reply(550, "no such user"), nil, mailRefused},
		{"mailbox full", reply(452, "mailbox full"), nil, mailLater},
		{"greylisted", reply(450, "try later"), nil, mailLater},
		{"server closing", reply(421, "closing"), nil, mailServerFailed},
		{"content refused", nil, reply(554, "spam"), mailRefused},
		{"content not now", nil, reply(451, "try later"), mailLater},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startMailServer(t, func(m *mailServer) {
					m.rcpt = func(string) error { return c.rcpt }
					m.data = func(string) error { return c.data }
				})
				if got, err := sendOne(t, m.config(mailURL), "ops@acme.example"); got != c.want {
					t.Errorf("got %d (%v), want %d", got, err, c.want)
				}
			})
		})
	}
	for _, c := range []struct {
		delivered bool
		err       error
		want      fate
	}{
		{true, &mail.SendError{Reason: mail.ErrSMTPReset}, mailSent}, // it was taken before the connection broke
		{false, &mail.SendError{Reason: mail.ErrSMTPMailFrom}, mailServerFailed},
		{false, &mail.SendError{Reason: mail.ErrSMTPDataClose}, mailServerFailed}, // no answer: nobody knows
		{false, &mail.SendError{Reason: mail.ErrGetRcpts}, mailRefused},
		{false, fmt.Errorf("send: %w", net.ErrClosed), mailServerFailed},
	} {
		if got := fateOf(c.delivered, c.err); got != c.want {
			t.Errorf("%v, %v: got %d, want %d", c.delivered, c.err, got, c.want)
		}
	}
}

func quietLog(t testing.TB) zerolog.Logger { return zerolog.New(zerolog.NewTestWriter(t)) }
