package staffetta

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Scheme is how a platform signs its webhooks, and so how a receiver verifies them.
type Scheme string

const (
	// SchemeRespondIO is respond.io's: X-Webhook-Signature is the base64 text of the HMAC-SHA256
	// of the body, keyed with the bytes of the key's text. It signs no time.
	SchemeRespondIO Scheme = "respond.io"
	// SchemeStandard is Standard Webhooks 1.0: webhook-signature lists "v1," and the base64 text
	// of the HMAC-SHA256 of id.timestamp.body, keyed with the bytes that the key's base64 text
	// decodes to. The timestamp may be SignatureTolerance away from now.
	SchemeStandard Scheme = "standard-webhooks"
	// SchemeGitHub is GitHub's: X-Hub-Signature-256 is "sha256=" and the lower-case hexadecimal
	// text of the HMAC-SHA256 of the body, keyed with the bytes of the key's text. It signs no time.
	SchemeGitHub Scheme = "github"
	// SchemeStripe is Stripe's: Stripe-Signature is "t=<Unix seconds>,v1=<hexadecimal>,…", each v1
	// the HMAC-SHA256 of t.body, keyed with the bytes of the key's text, "whsec_" included. The
	// timestamp may be SignatureTolerance away from now.
	SchemeStripe Scheme = "stripe"
	// SchemeNone accepts everything: for a source that something else protects.
	SchemeNone Scheme = "none"
)

// MaxVerifierKeys is how many keys a verifier takes: each may cost one HMAC of the body a request.
const MaxVerifierKeys = 10

// ParseScheme reads a scheme's name. The error is an InputError that lists them.
func ParseScheme(text string) (Scheme, error) {
	schemes := []Scheme{SchemeRespondIO, SchemeStandard, SchemeGitHub, SchemeStripe, SchemeNone}
	if !slices.Contains(schemes, Scheme(text)) {
		names := make([]string, len(schemes))
		for i, s := range schemes {
			names[i] = string(s)
		}
		return "", invalid("invalid_verify", "verify", "must be one of "+strings.Join(names, ", "))
	}
	return Scheme(text), nil
}

// Verifier verifies the requests of one source under any of its keys. It is safe for concurrent
// use, and keeps keyed states so that a request costs no key setup (BenchmarkVerifier).
type Verifier struct {
	scheme Scheme
	// checkers holds *checker.
	checkers sync.Pool
}

// NewVerifier makes the verifier of a scheme and 1 to MaxVerifierKeys keys, texts as the platform
// shows them; SchemeNone takes none. Those of SchemeStandard are base64, with or without "whsec_".
// The error is an InputError that names a key by its place in the list and never repeats it.
func NewVerifier(s Scheme, keys []string) (*Verifier, error) {
	if _, err := ParseScheme(string(s)); err != nil {
		return nil, err
	}
	raw, bad := verifierKeys(s, keys)
	if bad != nil {
		return nil, bad
	}
	v := &Verifier{scheme: s}
	v.checkers.New = func() any { return newChecker(raw) }
	return v, nil
}

// verifierKeys are the bytes that the keys stand for.
func verifierKeys(s Scheme, keys []string) ([][]byte, *InputError) {
	bad := func(detail string) ([][]byte, *InputError) { return nil, invalid("invalid_keys", "keys", detail) }
	switch {
	case s == SchemeNone && len(keys) > 0:
		return bad(string(SchemeNone) + " verifies nothing and takes no keys; leave them out or name the scheme")
	case s != SchemeNone && len(keys) == 0:
		return bad("give at least one key of " + string(s))
	case len(keys) > MaxVerifierKeys:
		return bad("more than " + strconv.Itoa(MaxVerifierKeys) + " keys")
	}
	raw := make([][]byte, len(keys))
	for i, key := range keys {
		switch place := "key " + strconv.Itoa(i+1); {
		case key == "":
			return bad(place + " is empty: anybody could sign with it")
		case strings.ContainsAny(key, "\r\n"):
			return bad(place + " has a line break; give its text alone")
		case s != SchemeStandard:
			raw[i] = []byte(key)
		default:
			var ok bool
			if raw[i], ok = standardKey(key); !ok {
				return bad(place + ` is not base64 text, with or without "whsec_"`)
			}
		}
	}
	return raw, nil
}

// standardKey is what a key of Standard Webhooks decodes to, with or without its prefix. The empty
// key is none: anybody can sign with it.
func standardKey(key string) ([]byte, bool) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, standardKeyPrefix))
	return raw, err == nil && len(raw) > 0
}

// Verify checks a request that was received at now: header gives the value of a header by its
// canonical name, such as "Webhook-Id", empty where the request has none. One key that matches is
// enough. The error is ErrSignatureMissing, ErrSignatureInvalid or ErrTimestampOutside. It keeps
// neither what header returns nor the body.
func (v *Verifier) Verify(header func(name string) []byte, body []byte, now time.Time) error {
	if v.scheme == SchemeNone {
		return nil
	}
	c, ok := v.checkers.Get().(*checker)
	if !ok {
		return ErrSignatureInvalid // NewVerifier did not make it
	}
	defer v.checkers.Put(c)
	switch v.scheme {
	case SchemeRespondIO:
		return c.respondIO(header("X-Webhook-Signature"), body)
	case SchemeStandard:
		return c.standard(header("Webhook-Id"), header("Webhook-Timestamp"), header("Webhook-Signature"), body, now, SignatureTolerance)
	case SchemeGitHub:
		return c.gitHub(header("X-Hub-Signature-256"), body)
	case SchemeStripe:
		return c.stripe(header("Stripe-Signature"), body, now, SignatureTolerance)
	default:
		return ErrSignatureInvalid // unreachable: NewVerifier parsed the scheme
	}
}

// Verify checks a request received now, in one call; an http.Header fits. The error is one of
// Verifier.Verify's, or the InputError of NewVerifier. Who verifies many requests keeps a Verifier.
func Verify(s Scheme, keys []string, header interface{ Get(string) string }, body []byte) error {
	v, err := NewVerifier(s, keys)
	if err != nil {
		return err
	}
	return v.Verify(func(name string) []byte { return []byte(header.Get(name)) }, body, time.Now())
}

// checker holds the keyed state of the keys of one scheme. It is not safe for concurrent use.
type checker struct {
	macs []hash.Hash
	// sum is the HMAC being looked at, text its spelling: fields, because what is handed to a
	// hash.Hash escapes.
	sum  [sha256.Size]byte
	text [2 * sha256.Size]byte
}

func newChecker(keys [][]byte) *checker {
	c := &checker{macs: make([]hash.Hash, len(keys))}
	for i, key := range keys {
		c.macs[i] = hmac.New(sha256.New, key)
		c.macs[i].Reset() // the first Reset keeps the keyed state that every later one restores
	}
	return c
}

func (c *checker) respondIO(signature, body []byte) error {
	if len(signature) == 0 {
		return ErrSignatureMissing
	}
	for _, mac := range c.macs {
		if equal(c.base64(mac, body), signature) {
			return nil
		}
	}
	return ErrSignatureInvalid
}

func (c *checker) gitHub(header, body []byte) error {
	if len(header) == 0 {
		return ErrSignatureMissing
	}
	signature, ok := bytes.CutPrefix(header, []byte("sha256="))
	if !ok {
		return ErrSignatureInvalid
	}
	for _, mac := range c.macs {
		if equal(c.hex(mac, body), signature) {
			return nil
		}
	}
	return ErrSignatureInvalid
}

func (c *checker) standard(id, timestamp, signatures, body []byte, now time.Time, tolerance time.Duration) error {
	if len(id) == 0 || len(timestamp) == 0 || len(signatures) == 0 {
		return ErrSignatureMissing
	}
	signedAt, ok := parseSeconds(timestamp)
	if !ok {
		return ErrSignatureInvalid // nobody who follows the scheme signs it
	}
	for _, mac := range c.macs {
		expected := c.base64(mac, id, dot, timestamp, dot, body)
		for entry := range bytes.SplitSeq(signatures, []byte(" ")) {
			if signature, ok := bytes.CutPrefix(entry, []byte(standardVersion)); ok && equal(expected, signature) {
				return within(signedAt, now, tolerance)
			}
		}
	}
	return ErrSignatureInvalid
}

func (c *checker) stripe(header, body []byte, now time.Time, tolerance time.Duration) error {
	if len(header) == 0 {
		return ErrSignatureMissing
	}
	var timestamp []byte
	for entry := range bytes.SplitSeq(header, comma) {
		if value, ok := bytes.CutPrefix(entry, []byte("t=")); ok {
			if timestamp != nil {
				return ErrSignatureInvalid // which one was signed is not to be guessed
			}
			timestamp = value
		}
	}
	signedAt, ok := parseSeconds(timestamp)
	if !ok {
		return ErrSignatureInvalid // nobody who follows the scheme signs it
	}
	for _, mac := range c.macs {
		expected := c.hex(mac, timestamp, dot, body)
		for entry := range bytes.SplitSeq(header, comma) {
			if signature, ok := bytes.CutPrefix(entry, []byte("v1=")); ok && equal(expected, signature) {
				return within(signedAt, now, tolerance)
			}
		}
	}
	return ErrSignatureInvalid
}

var dot, comma = []byte("."), []byte(",")

// base64 is the base64 text of the HMAC of the parts, one after another, until the next call.
func (c *checker) base64(mac hash.Hash, parts ...[]byte) []byte {
	return base64.StdEncoding.AppendEncode(c.text[:0], c.write(mac, parts))
}

// hex is the hexadecimal text of the HMAC of the parts, one after another, until the next call.
func (c *checker) hex(mac hash.Hash, parts ...[]byte) []byte {
	return hex.AppendEncode(c.text[:0], c.write(mac, parts))
}

func (c *checker) write(mac hash.Hash, parts [][]byte) []byte {
	mac.Reset()
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(c.sum[:0])
}

// equal compares two texts in a time that does not tell how much of them is the same. It compares
// the text, not what it decodes to, so a signature has one spelling only.
func equal(expected, got []byte) bool { return subtle.ConstantTimeCompare(expected, got) == 1 }

func parseSeconds(text []byte) (time.Time, bool) {
	seconds, err := strconv.ParseInt(string(text), 10, 64)
	return time.Unix(seconds, 0), err == nil
}

func within(signedAt, now time.Time, tolerance time.Duration) error {
	if age := now.Sub(signedAt); age > tolerance || age < -tolerance {
		return ErrTimestampOutside
	}
	return nil
}
