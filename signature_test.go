package staffetta_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/staffetta-relay/staffetta"
)

const (
	key24 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	key32 = "AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk="
	// key64 decodes to exactly a SHA-256 block, and its text is longer than one: HMAC hashes it first.
	key64 = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eDf3t3c29rZ2NfW1dTT0tHQz87NzMvKycjHxsXEw8LBwA=="

	signedBody = `{"event_type":"message.received","text":"Hi! Is the “Kopi <Gula & Apung>” still RM 12? ☕","event_id":"e1"}`
)

// Computed by
//
//	printf '%s' "$BODY" | openssl dgst -sha256 -hmac "$KEY" -binary | base64
var respondIOVectors = []struct{ key, body, signature string }{
	{key24, signedBody, "rbZe2sBIghUetMkCiixVMNZUsm/wqfEDr6OnoGEqwRI="},
	{key32, `{}`, "4KYZm3OppvpiKTtu5C2Em+6o9tTL3HA0fZ2ynXEFPPs="},
	{key64, signedBody, "TJ1/uvQ/rDz3bu0sCckn0asYJDZFCZR+M1/fX5E/gi4="},
	{key64, ``, "JYcIGEjcTY8W7rCy+Lw43vH4y4f6fPWsf/1Wawrtju0="},
}

// Computed by
//
//	printf '%s' "$ID.$TIMESTAMP.$BODY" | openssl dgst -sha256 -mac HMAC -binary \
//		-macopt hexkey:$(printf '%s' "$KEY" | base64 -d | od -An -v -tx1 | tr -d ' \n') | base64
//
// The last one is also the example of the Standard Webhooks libraries.
var standardVectors = []struct {
	key, id   string
	timestamp int64
	body      string
	signature string
}{
	{key24, "e1", 1784604785, signedBody, "v1,TxeblOJXb/iKJl0XTh+Wi3k4t4YfTbFi2kMmllq9NQk="},
	{key32, "0198c2a0-0000-7000-8000-000000000001", 0, `{}`, "v1,Oj0OqxHraw9g13yfCGuAq3KfmfHFhrNqIr+gJHTv7fw="},
	{key64, "e1", 253402300799, signedBody, "v1,OzYCFsYvNpmLZ4lM0dxrZdEFQMQu1LMLsSKwIumBWCY="},
	{key64, "x", -1, ``, "v1,BqiSBeju4tlFjE5AHZ7lNW9pn88cB2Dd3lc5QkBE7PI="},
	{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
}

func newSigner(t testing.TB, key string) *staffetta.Signer {
	t.Helper()
	s, err := staffetta.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignaturesAreThoseOfOpenSSL(t *testing.T) {
	for _, v := range respondIOVectors {
		s := newSigner(t, v.key)
		for range 2 { // the second signature comes from the restored state
			if got := s.AppendRespondIO([]byte("x: "), []byte(v.body)); string(got) != "x: "+v.signature {
				t.Errorf("AppendRespondIO(%q) = %s, want %s", v.body, got, v.signature)
			}
		}
		if err := staffetta.VerifyRespondIO([]string{v.key}, v.signature, []byte(v.body)); err != nil {
			t.Errorf("VerifyRespondIO(%q): %v", v.body, err)
		}
	}
	for _, v := range standardVectors {
		s := newSigner(t, v.key)
		for range 2 {
			if got := s.AppendStandard([]byte("x: "), v.id, v.timestamp, []byte(v.body)); string(got) != "x: "+v.signature {
				t.Errorf("AppendStandard(%q) = %s, want %s", v.body, got, v.signature)
			}
		}
		err := staffetta.VerifyStandard([]string{v.key}, v.id, strconv.FormatInt(v.timestamp, 10), v.signature,
			[]byte(v.body), time.Unix(v.timestamp, 0), staffetta.SignatureTolerance)
		if err != nil {
			t.Errorf("VerifyStandard(%q): %v", v.body, err)
		}
	}
}

func TestOneSignerMayAlternateBetweenTheSchemes(t *testing.T) {
	r, v := respondIOVectors[0], standardVectors[0]
	s := newSigner(t, key24)
	for range 3 {
		if got := s.AppendRespondIO(nil, []byte(r.body)); string(got) != r.signature {
			t.Errorf("AppendRespondIO = %s, want %s", got, r.signature)
		}
		if got := s.AppendStandard(nil, v.id, v.timestamp, []byte(v.body)); string(got) != v.signature {
			t.Errorf("AppendStandard = %s, want %s", got, v.signature)
		}
	}
}

func TestTheStandardWebhooksLibraryAgrees(t *testing.T) {
	now := time.Now()
	for range 20 {
		key := staffetta.NewSigningKey()
		library, err := standardwebhooks.NewWebhook("whsec_" + key)
		if err != nil {
			t.Fatal(err)
		}
		ours := newSigner(t, key).AppendStandard(nil, "e1", now.Unix(), []byte(signedBody))
		header := http.Header{}
		header.Set(standardwebhooks.HeaderWebhookID, "e1")
		header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		header.Set(standardwebhooks.HeaderWebhookSignature, string(ours))
		if err := library.Verify([]byte(signedBody), header); err != nil {
			t.Errorf("the library refuses our signature: %v", err)
		}
		theirs, err := library.Sign("e2", now, []byte(signedBody))
		if err != nil {
			t.Fatal(err)
		}
		err = staffetta.VerifyStandard([]string{key}, "e2", strconv.FormatInt(now.Unix(), 10), theirs,
			[]byte(signedBody), now, staffetta.SignatureTolerance)
		if err != nil {
			t.Errorf("we refuse the library's signature: %v", err)
		}
	}
}

func TestTheStandardWebhooksLibraryAcceptsBothSignaturesOfARotation(t *testing.T) {
	now := time.Now()
	list := newSigner(t, key24).AppendStandard(nil, "e1", now.Unix(), []byte(signedBody))
	list = newSigner(t, key32).AppendStandard(append(list, ' '), "e1", now.Unix(), []byte(signedBody))
	header := http.Header{}
	header.Set(standardwebhooks.HeaderWebhookID, "e1")
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	header.Set(standardwebhooks.HeaderWebhookSignature, string(list))
	for _, key := range []string{key24, key32} {
		library, err := standardwebhooks.NewWebhook(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := library.Verify([]byte(signedBody), header); err != nil {
			t.Errorf("the holder of %s is refused: %v", key, err)
		}
	}
}

func TestASignerNeedsAKeyOf24To64Bytes(t *testing.T) {
	for _, key := range []string{
		"", "secret", "whsec_" + key24, key24 + "\n", strings.TrimRight(key32, "="),
		base64.StdEncoding.EncodeToString(make([]byte, 23)), base64.StdEncoding.EncodeToString(make([]byte, 65)),
	} {
		_, err := staffetta.NewSigner(key)
		if _, ok := errors.AsType[*staffetta.InputError](err); !ok {
			t.Errorf("NewSigner(%q) = %v, want an InputError", key, err)
		}
	}
}

func TestANewSigningKeyIsValidAndNew(t *testing.T) {
	a, b := staffetta.NewSigningKey(), staffetta.NewSigningKey()
	if a == b {
		t.Error("two keys are the same")
	}
	if len(a) != 44 {
		t.Errorf("a key has %d characters, want 44", len(a))
	}
	if err := staffetta.ValidateSigningKey(a); err != nil {
		t.Error(err)
	}
}

func TestVerifyRespondIO(t *testing.T) {
	good := respondIOVectors[0].signature
	const emptyKeys = "9CnzRy60VUgfufsirPgOuKOomDZTRs42l4DkXbVWqG0=" // printf %s "$BODY" | openssl dgst -sha256 -hmac "" -binary | base64
	for _, c := range []struct {
		name      string
		keys      []string
		signature string
		body      string
		want      error
	}{
		{"one key", []string{key24}, good, signedBody, nil},
		{"the second of three keys", []string{key32, key24, key64}, good, signedBody, nil},
		{"an empty key beside it", []string{"", key24}, good, signedBody, nil},
		{"no signature", []string{key24}, "", signedBody, staffetta.ErrSignatureMissing},
		{"no keys", nil, good, signedBody, staffetta.ErrSignatureInvalid},
		{"another key", []string{key32}, good, signedBody, staffetta.ErrSignatureInvalid},
		{"an empty key alone", []string{""}, emptyKeys, signedBody, staffetta.ErrSignatureInvalid},
		{"another body", []string{key24}, good, signedBody + " ", staffetta.ErrSignatureInvalid},
		{"a shorter signature", []string{key24}, good[:43], signedBody, staffetta.ErrSignatureInvalid},
		{"a longer signature", []string{key24}, good + "=", signedBody, staffetta.ErrSignatureInvalid},
		{"another spelling of the last bits", []string{key24}, strings.Replace(good, "wRI=", "wRJ=", 1), signedBody, staffetta.ErrSignatureInvalid},
		{"hexadecimal", []string{key24}, strings.Repeat("ab", 32), signedBody, staffetta.ErrSignatureInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := staffetta.VerifyRespondIO(c.keys, c.signature, []byte(c.body)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestVerifyStandard(t *testing.T) {
	const id, timestamp = "e1", "1784604785"
	good := standardVectors[0].signature
	text := strings.TrimPrefix(good, "v1,")
	signedAt := time.Unix(1784604785, 0)
	sign := func(key string, seconds int64) string {
		return string(newSigner(t, key).AppendStandard(nil, id, seconds, []byte(signedBody)))
	}
	for _, c := range []struct {
		name                      string
		keys                      []string
		id, timestamp, signatures string
		now                       time.Time
		want                      error
	}{
		{"one key", []string{key24}, id, timestamp, good, signedAt, nil},
		{"the key with its prefix", []string{"whsec_" + key24}, id, timestamp, good, signedAt, nil},
		{"the last of several keys", []string{"not base64", "", key32, key24}, id, timestamp, good, signedAt, nil},
		{"the last of several signatures", []string{key24}, id, timestamp, "v1a,AAAA v2," + text + " " + sign(key32, 1784604785) + " " + good, signedAt, nil},
		{"spaces around", []string{key24}, id, timestamp, "  " + good + " ", signedAt, nil},
		{"as late as may be", []string{key24}, id, timestamp, good, signedAt.Add(5 * time.Minute), nil},
		{"as early as may be", []string{key24}, id, timestamp, good, signedAt.Add(-5 * time.Minute), nil},
		{"too late", []string{key24}, id, timestamp, good, signedAt.Add(5*time.Minute + 1), staffetta.ErrTimestampOutside},
		{"too early", []string{key24}, id, timestamp, good, signedAt.Add(-5*time.Minute - 1), staffetta.ErrTimestampOutside},
		{"the end of time", []string{key24}, id, "9223372036854775807", sign(key24, 9223372036854775807), signedAt, staffetta.ErrTimestampOutside},
		{"the beginning of time", []string{key24}, id, "-9223372036854775808", sign(key24, -9223372036854775808), signedAt, staffetta.ErrTimestampOutside},
		{"too late and not signed", []string{key32}, id, timestamp, good, signedAt.Add(time.Hour), staffetta.ErrSignatureInvalid},
		{"no id", []string{key24}, "", timestamp, good, signedAt, staffetta.ErrSignatureMissing},
		{"no timestamp", []string{key24}, id, "", good, signedAt, staffetta.ErrSignatureMissing},
		{"no signature", []string{key24}, id, timestamp, "", signedAt, staffetta.ErrSignatureMissing},
		{"another id", []string{key24}, "e2", timestamp, good, signedAt, staffetta.ErrSignatureInvalid},
		{"another timestamp", []string{key24}, id, "1784604786", good, signedAt, staffetta.ErrSignatureInvalid},
		{"another spelling of the timestamp", []string{key24}, id, "+1784604785", good, signedAt, staffetta.ErrSignatureInvalid},
		{"a timestamp that is no number", []string{key24}, id, "today", good, signedAt, staffetta.ErrSignatureInvalid},
		{"another key", []string{key32}, id, timestamp, good, signedAt, staffetta.ErrSignatureInvalid},
		{"no keys", nil, id, timestamp, good, signedAt, staffetta.ErrSignatureInvalid},
		{"an unknown version", []string{key24}, id, timestamp, "v2," + text, signedAt, staffetta.ErrSignatureInvalid},
		{"no version", []string{key24}, id, timestamp, text, signedAt, staffetta.ErrSignatureInvalid},
		{"something behind it", []string{key24}, id, timestamp, good + ",", signedAt, staffetta.ErrSignatureInvalid},
		// printf %s "e1.1784604785.$BODY" | openssl dgst -sha256 -hmac "" -binary | base64
		{"the empty key", []string{"", "whsec_"}, id, timestamp, "v1,56fF4SGhrP7fqoiVM5QAID3W9BO5N/0bw68tF/F1X2s=", signedAt, staffetta.ErrSignatureInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := staffetta.VerifyStandard(c.keys, c.id, c.timestamp, c.signatures, []byte(signedBody), c.now, staffetta.SignatureTolerance)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestASignatureAllocatesNothing(t *testing.T) {
	s := newSigner(t, key32)
	body, dst := bytes.Repeat([]byte("x"), 1024), make([]byte, 0, 128)
	id := strings.Repeat("i", staffetta.MaxEventID)
	if n := testing.AllocsPerRun(100, func() { dst = s.AppendRespondIO(dst[:0], body) }); n != 0 {
		t.Errorf("AppendRespondIO allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { dst = s.AppendStandard(dst[:0], id, -1<<63, body) }); n != 0 {
		t.Errorf("AppendStandard allocates %v times, want 0", n)
	}
}

func BenchmarkSigner(b *testing.B) {
	s := newSigner(b, key32)
	body, dst := bytes.Repeat([]byte("x"), 1024), make([]byte, 0, 128)
	b.Run("RespondIO", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			dst = s.AppendRespondIO(dst[:0], body)
		}
	})
	b.Run("Standard", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			dst = s.AppendStandard(dst[:0], "0198c2a0-0000-7000-8000-000000000001", 1784604785, body)
		}
	})
}

func BenchmarkVerifyRespondIO(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1024)
	keys := []string{key32}
	signature := string(newSigner(b, key32).AppendRespondIO(nil, body))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := staffetta.VerifyRespondIO(keys, signature, body); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzVerifyStandard: nothing panics, what was signed verifies, and it no longer does once a bit of
// the id, the timestamp, the signature or the body is another.
func FuzzVerifyStandard(f *testing.F) {
	f.Add("e1", int64(1784604785), []byte(signedBody), "v1,AAAA v2,BBBB", "1784604785", uint(0))
	f.Add("a.b", int64(-1), []byte{}, " , v1, v1,,", "+1", uint(77))
	s := newSigner(f, key32)
	keys := []string{key24, "whsec_" + key32, "", "?"}
	f.Fuzz(func(t *testing.T, id string, seconds int64, body []byte, list, text string, bit uint) {
		now := time.Unix(seconds, 0)
		// The chance that this is a forgery is 2^-256.
		if err := staffetta.VerifyStandard(keys, id, text, list, body, now, staffetta.SignatureTolerance); err == nil {
			t.Fatalf("an arbitrary signature verifies: %q", list)
		}
		if id == "" {
			return
		}
		fields := [][]byte{
			[]byte(id),
			strconv.AppendInt(nil, seconds, 10),
			s.AppendStandard(nil, id, seconds, body),
			bytes.Clone(body),
		}
		verify := func() error {
			return staffetta.VerifyStandard(keys, string(fields[0]), string(fields[1]), string(fields[2]), fields[3], now, staffetta.SignatureTolerance)
		}
		if err := verify(); err != nil {
			t.Fatalf("what was signed does not verify: %v", err)
		}
		size := 0
		for _, field := range fields {
			size += len(field)
		}
		bit %= uint(size) * 8
		at := int(bit / 8)
		for _, field := range fields {
			if at < len(field) {
				field[at] ^= 1 << (bit % 8)
				break
			}
			at -= len(field)
		}
		if err := verify(); err == nil {
			t.Fatalf("verifies with bit %d flipped: %q", bit, fields)
		}
	})
}
