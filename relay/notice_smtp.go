package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/staffetta-relay/staffetta"
)

// MailConfig says how mails are sent.
type MailConfig struct {
	// URL of the mail server: smtp://user:password@host:port (port 587 where none is given) or, for TLS
	// from the first byte, smtps:// (port 465). With smtp:// STARTTLS is used when the server offers
	// it; ?starttls=require insists, ?starttls=no never uses it and lets the password travel in clear.
	// Without user and password there is no authentication.
	URL string
	// From is the sender's address, with or without a name: Webhooks <webhooks@example.com>.
	From string
	// PublicURL is where the relay's API is reached from outside, for the commands in the mails.
	PublicURL string
	// Dial opens connections in place of a net.Dialer, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for a server whose certificate is not of a public authority. Default: verify as usual.
	TLS *tls.Config
}

// mailTimeout bounds the connecting to a mail server, and then each mail.
const mailTimeout = 30 * time.Second

// postman brings mails to the server.
type postman struct {
	host, address  string
	user, password string
	implicitTLS    bool
	starttls       mail.TLSPolicy
	from           *netmail.Address
	tls            *tls.Config
	dial           func(ctx context.Context, network, address string) (net.Conn, error)
}

// Validate says which part of the configuration cannot be used. It never shows the URL.
func (c MailConfig) Validate() error {
	_, err := newPostman(c)
	return err
}

func newPostman(cfg MailConfig) (*postman, error) {
	p := &postman{starttls: mail.TLSOpportunistic, dial: cfg.Dial}
	if err := p.readURL(cfg.URL); err != nil {
		return nil, err
	}
	var err error
	if p.from, err = netmail.ParseAddress(cfg.From); err != nil {
		return nil, &staffetta.InputError{Code: "invalid_mail_from", Field: "mail-from", Offset: -1, Detail: "must be the sender's e-mail address, such as webhooks@example.com"}
	}
	if cfg.PublicURL != "" {
		if bad := staffetta.ValidateURL(cfg.PublicURL); bad != nil {
			bad.Field = "public-url"
			return nil, bad
		}
		if strings.ContainsAny(cfg.PublicURL, "'\"`$\\?;&|<>(){}") {
			return nil, &staffetta.InputError{Code: "invalid_url", Field: "public-url", Offset: -1, Detail: "has a character that a shell would read; give the relay's address alone"}
		}
	}
	if p.dial == nil {
		p.dial = (&net.Dialer{}).DialContext
	}
	p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		p.tls = cfg.TLS.Clone()
	}
	p.tls.ServerName = p.host
	return p, nil
}

// readURL takes the URL apart. No error shows it: a password may be in it.
func (p *postman) readURL(raw string) error {
	bad := func(detail string) error {
		return &staffetta.InputError{Code: "invalid_smtp_url", Field: "smtp-url", Offset: -1, Detail: detail}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps":
		return bad("must be smtp://user:password@host:port or smtps://…; percent-encode what is special in the password")
	case u.Path != "" && u.Path != "/" || u.Fragment != "":
		return bad("has something behind the port that does not belong there")
	}
	p.implicitTLS = u.Scheme == "smtps"
	port := u.Port()
	if port == "" {
		port = "587"
		if p.implicitTLS {
			port = "465"
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return bad("has a port outside 1 to 65535")
	}
	p.host, p.address = u.Hostname(), net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		p.user = u.User.Username()
		p.password, _ = u.User.Password()
		if p.user == "" || p.password == "" {
			return bad("has a user without a password, or a password without a user")
		}
	}
	query := u.Query()
	mode := query.Get("starttls")
	if query.Del("starttls"); len(query) > 0 {
		return bad("has a parameter other than starttls")
	}
	switch {
	case mode == "":
	case p.implicitTLS:
		return bad("has both smtps:// and starttls")
	case mode == "require":
		p.starttls = mail.TLSMandatory
	case mode == "no":
		p.starttls = mail.NoTLS
	default:
		return bad("has a starttls other than require or no")
	}
	return nil
}

// visit is one connection to the mail server.
type visit struct {
	postman *postman
	client  *mail.Client
	session *smtp.Client
	conn    net.Conn
	unwatch func() bool
}

// visit connects; when ctx ends the connection is cut.
func (p *postman) visit(ctx context.Context) (*visit, error) {
	v := &visit{postman: p}
	options := []mail.Option{
		mail.WithTimeout(mailTimeout), mail.WithTLSPolicy(p.starttls), mail.WithTLSConfig(p.tls), mail.WithoutNoop(),
		mail.WithDialContextFunc(func(dialing context.Context, network, _ string) (net.Conn, error) {
			return v.open(dialing, ctx, network)
		}),
	}
	if p.user != "" {
		options = append(options, mail.WithSMTPAuthCustom(&login{postman: p}))
	}
	var err error
	if v.client, err = mail.NewClient(p.host, options...); err != nil {
		return nil, fmt.Errorf("set up mail client: %w", p.hide(err))
	}
	if v.session, err = v.client.DialToSMTPClientWithContext(ctx); err != nil {
		v.hangUp()
		return nil, fmt.Errorf("connect to the mail server: %w", p.hide(err))
	}
	return v, nil
}

// open makes the connection, and its TLS where that comes first.
func (v *visit) open(ctx, visiting context.Context, network string) (net.Conn, error) {
	conn, err := v.postman.dial(ctx, network, v.postman.address)
	if err != nil {
		return nil, err
	}
	v.conn, v.unwatch = conn, context.AfterFunc(visiting, func() { _ = conn.Close() })
	if !v.postman.implicitTLS {
		return conn, nil
	}
	secured := tls.Client(conn, v.postman.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secured, nil
}

// end takes leave of the server.
func (v *visit) end() {
	_ = v.client.CloseWithSMTPClient(v.session) // what was sent is sent
	v.hangUp()
}

func (v *visit) hangUp() {
	if v.conn != nil {
		v.unwatch()
		_ = v.conn.Close()
	}
}

// hide takes the password out of what a server may have repeated.
func (p *postman) hide(err error) error {
	if text := err.Error(); p.password != "" && strings.Contains(text, p.password) {
		return errors.New(strings.ReplaceAll(text, p.password, "…"))
	}
	return err
}

// fate is what became of a try to send a mail.
type fate uint8

const (
	mailSent         fate = iota
	mailLater             // this mail not now; others may go
	mailRefused           // this mail never
	mailServerFailed      // no mail now
)

// send hands one mail over. The id makes the Message-ID: should the connection break in the moment
// of the server's answer, the second copy can be told to be one.
func (v *visit) send(text writtenLetter, to, id string, queuedAt time.Time) (fate, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.FromMailAddress(v.postman.from)
	if err := m.To(to); err != nil {
		return mailRefused, fmt.Errorf("write mail: %w", err)
	}
	m.Subject(text.Subject)
	m.SetDateWithValue(queuedAt)
	_, domain, _ := strings.Cut(v.postman.from.Address, "@")
	m.SetMessageIDWithValue(id + "@" + domain)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("X-Auto-Response-Suppress", "All")
	m.SetGenHeader(mail.HeaderContentLang, text.Language)
	m.SetBodyString(mail.TypeTextPlain, text.Text)
	m.AddAlternativeString(mail.TypeTextHTML, text.HTML)
	err := v.client.SendWithSMTPClient(v.session, m)
	f := fateOf(m.IsDelivered(), err)
	if err != nil {
		err = fmt.Errorf("send mail: %w", v.postman.hide(err))
	}
	return f, err
}

// fateOf reads the library's error. A 5xx to the sender's address or to the connection is a matter
// of settings, which somebody will put right; a 5xx to a recipient or to the mail itself stays.
func fateOf(delivered bool, err error) fate {
	var failed *mail.SendError
	switch {
	case delivered || err == nil:
		return mailSent
	case !errors.As(err, &failed):
		return mailServerFailed
	}
	code := failed.ErrorCode()
	switch failed.Reason {
	case mail.ErrGetRcpts, mail.ErrGetSender, mail.ErrNoUnencoded:
		return mailRefused
	case mail.ErrSMTPRcptTo, mail.ErrSMTPData, mail.ErrSMTPDataClose:
		switch {
		case code >= 500:
			return mailRefused
		case code >= 400 && code != 421:
			return mailLater
		}
	default:
	}
	return mailServerFailed
}

// login authenticates by the best way that the server offers. In clear it only uses those that do
// not show the password, unless the URL says starttls=no.
type login struct {
	postman *postman
	chosen  smtp.Auth
}

// Start is called once the connection is as safe as it will be.
func (l *login) Start(server *smtp.ServerInfo) (string, []byte, error) {
	p := l.postman
	inClear := p.starttls == mail.NoTLS
	ways := []string{"PLAIN", "LOGIN", "SCRAM-SHA-256", "CRAM-MD5"}
	if !server.TLS {
		ways = []string{"SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"}
	}
	for _, way := range ways {
		if !slices.Contains(server.Auth, way) {
			continue
		}
		switch way {
		case "PLAIN":
			l.chosen = smtp.PlainAuth("", p.user, p.password, p.host, inClear)
		case "LOGIN":
			l.chosen = smtp.LoginAuth(p.user, p.password, p.host, inClear)
		case "SCRAM-SHA-256":
			l.chosen = smtp.ScramSHA256Auth(p.user, p.password)
		case "CRAM-MD5":
			l.chosen = smtp.CRAMMD5Auth(p.user, p.password)
		}
		return l.chosen.Start(server)
	}
	return "", nil, errors.New("the mail server offers no way to authenticate that is known here (PLAIN, LOGIN, SCRAM-SHA-256, CRAM-MD5)")
}

// Next goes on in the chosen way.
func (l *login) Next(fromServer []byte, more bool) ([]byte, error) {
	return l.chosen.Next(fromServer, more)
}
