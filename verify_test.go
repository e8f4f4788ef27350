package staffetta_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const (
	stripeKey = "whsec_" + key24
	// printf '%s' "$BODY" | openssl dgst -sha256 -hmac "$KEY24"
	gitHubSignature = "sha256=adb65edac04882151eb4c9028a2c5530d654b26ff0a9f103afa3a7a0612ac112"
	// printf '%s' "1784604785.$BODY" | openssl dgst -sha256 -hmac "whsec_$KEY24"
	stripeV1 = "2dd8b52bd2b0aad540bed765f8512145eaab700c62df6806c948b3357e8a7bab"
)

// signedNow is the time that standardVectors[0] and stripeV1 sign.
var signedNow = time.Unix(1784604785, 0)

func newVerifier(t testing.TB, s staffetta.Scheme, keys ...string) *staffetta.Verifier {
	t.Helper()
	v, err := staffetta.NewVerifier(s, keys)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// headers gives the values of a list of names and values.
func headers(pairs ...string) func(string) []byte {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return func(name string) []byte { return []byte(h.Get(name)) }
}

// standardHeaders are those of a request of Standard Webhooks.
func standardHeaders(id, timestamp, signatures string) func(string) []byte {
	return headers("webhook-id", id, "webhook-timestamp", timestamp, "webhook-signature", signatures)
}

func TestVerifier(t *testing.T) {
	const (
		respondIO, standard = staffetta.SchemeRespondIO, staffetta.SchemeStandard
		gitHub, stripe      = staffetta.SchemeGitHub, staffetta.SchemeStripe
	)
	goodRespondIO, goodStandard := respondIOVectors[0].signature, standardVectors[0].signature
	const goodStripe = "t=1784604785,v1=" + stripeV1
	for _, c := range []struct {
		name   string
		scheme staffetta.Scheme
		keys   []string
		header func(string) []byte
		body   string
		now    time.Time
		want   error
	}{
		{"respond.io", respondIO, []string{key24}, headers("X-Webhook-Signature", goodRespondIO), signedBody, signedNow, nil},
		{"respond.io, the last of three keys", respondIO, []string{key64, key32, key24}, headers("X-Webhook-Signature", goodRespondIO), signedBody, signedNow, nil},
		{"respond.io, no header", respondIO, []string{key24}, headers(), signedBody, signedNow, staffetta.ErrSignatureMissing},
		{"respond.io, another key", respondIO, []string{key32}, headers("X-Webhook-Signature", goodRespondIO), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"respond.io, another body", respondIO, []string{key24}, headers("X-Webhook-Signature", goodRespondIO), signedBody + "\n", signedNow, staffetta.ErrSignatureInvalid},
		{"respond.io, another header", respondIO, []string{key24}, headers("X-Hub-Signature-256", goodRespondIO), signedBody, signedNow, staffetta.ErrSignatureMissing},

		{"standard", standard, []string{key24}, standardHeaders("e1", "1784604785", goodStandard), signedBody, signedNow, nil},
		{"standard, the key with its prefix", standard, []string{key32, "whsec_" + key24}, standardHeaders("e1", "1784604785", goodStandard), signedBody, signedNow, nil},
		{"standard, the last of several", standard, []string{key24}, standardHeaders("e1", "1784604785", "v2,AAAA v1,AAAA "+goodStandard), signedBody, signedNow, nil},
		{"standard, no id", standard, []string{key24}, standardHeaders("", "1784604785", goodStandard), signedBody, signedNow, staffetta.ErrSignatureMissing},
		{"standard, another id", standard, []string{key24}, standardHeaders("e2", "1784604785", goodStandard), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"standard, as late as may be", standard, []string{key24}, standardHeaders("e1", "1784604785", goodStandard), signedBody, signedNow.Add(5 * time.Minute), nil},
		{"standard, too late", standard, []string{key24}, standardHeaders("e1", "1784604785", goodStandard), signedBody, signedNow.Add(5*time.Minute + 1), staffetta.ErrTimestampOutside},

		// The example of GitHub's manual.
		{"github's own example", gitHub, []string{"It's a Secret to Everybody"}, headers("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"), "Hello, World!", signedNow, nil},
		{"github", gitHub, []string{key32, key24}, headers("X-Hub-Signature-256", gitHubSignature), signedBody, signedNow, nil},
		{"github, no header", gitHub, []string{key24}, headers("X-Hub-Signature", "sha1=00"), signedBody, signedNow, staffetta.ErrSignatureMissing},
		{"github, no prefix", gitHub, []string{key24}, headers("X-Hub-Signature-256", gitHubSignature[7:]), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"github, cut", gitHub, []string{key24}, headers("X-Hub-Signature-256", gitHubSignature[:70]), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"github, another spelling", gitHub, []string{key24}, headers("X-Hub-Signature-256", "sha256="+strings.ToUpper(gitHubSignature[7:])), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"github, another key", gitHub, []string{key32}, headers("X-Hub-Signature-256", gitHubSignature), signedBody, signedNow, staffetta.ErrSignatureInvalid},

		{"stripe", stripe, []string{key32, stripeKey}, headers("Stripe-Signature", goodStripe), signedBody, signedNow, nil},
		{"stripe, the last of several", stripe, []string{stripeKey}, headers("Stripe-Signature", "t=1784604785,v1=00,v0=11,v1="+stripeV1+",v2=22"), signedBody, signedNow, nil},
		{"stripe, the time behind", stripe, []string{stripeKey}, headers("Stripe-Signature", "v1="+stripeV1+",t=1784604785"), signedBody, signedNow, nil},
		{"stripe, as early as may be", stripe, []string{stripeKey}, headers("Stripe-Signature", goodStripe), signedBody, signedNow.Add(-5 * time.Minute), nil},
		{"stripe, too early", stripe, []string{stripeKey}, headers("Stripe-Signature", goodStripe), signedBody, signedNow.Add(-5*time.Minute - 1), staffetta.ErrTimestampOutside},
		{"stripe, too late and not signed", stripe, []string{key32}, headers("Stripe-Signature", goodStripe), signedBody, signedNow.Add(time.Hour), staffetta.ErrSignatureInvalid},
		{"stripe, no header", stripe, []string{stripeKey}, headers(), signedBody, signedNow, staffetta.ErrSignatureMissing},
		{"stripe, the key without its prefix", stripe, []string{key24}, headers("Stripe-Signature", goodStripe), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"stripe, no time", stripe, []string{stripeKey}, headers("Stripe-Signature", "v1="+stripeV1), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"stripe, an empty time", stripe, []string{stripeKey}, headers("Stripe-Signature", "t=,v1="+stripeV1), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"stripe, another time", stripe, []string{stripeKey}, headers("Stripe-Signature", "t=1784604786,v1="+stripeV1), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"stripe, two times", stripe, []string{stripeKey}, headers("Stripe-Signature", "t=1784604785,"+goodStripe), signedBody, signedNow, staffetta.ErrSignatureInvalid},
		{"stripe, no v1", stripe, []string{stripeKey}, headers("Stripe-Signature", "t=1784604785,v0="+stripeV1), signedBody, signedNow, staffetta.ErrSignatureInvalid},

		{"none", staffetta.SchemeNone, nil, headers(), signedBody, signedNow, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVerifier(t, c.scheme, c.keys...)
			for range 2 { // the second time the state comes from the pool
				if err := v.Verify(c.header, []byte(c.body), c.now); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			}
		})
	}
}

func TestAVerifierThatWasNotMadeAcceptsNothing(t *testing.T) {
	if err := new(staffetta.Verifier).Verify(headers(), nil, signedNow); !errors.Is(err, staffetta.ErrSignatureInvalid) {
		t.Errorf("got %v, want %v", err, staffetta.ErrSignatureInvalid)
	}
}

func TestVerifyTakesAnHTTPHeader(t *testing.T) {
	h := http.Header{}
	h.Set("x-webhook-signature", respondIOVectors[0].signature)
	for _, c := range []struct {
		keys []string
		body string
		want error
	}{
		{[]string{key24}, signedBody, nil},
		{[]string{key32}, signedBody, staffetta.ErrSignatureInvalid},
		{[]string{key24}, "", staffetta.ErrSignatureInvalid},
	} {
		if err := staffetta.Verify(staffetta.SchemeRespondIO, c.keys, h, []byte(c.body)); !errors.Is(err, c.want) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
	err := staffetta.Verify(staffetta.SchemeRespondIO, nil, h, []byte(signedBody))
	if _, ok := errors.AsType[*staffetta.InputError](err); !ok {
		t.Errorf("without keys: %v, want an InputError", err)
	}
	now := time.Now().Unix()
	h.Set("webhook-id", "e1")
	h.Set("webhook-timestamp", strconv.FormatInt(now, 10))
	h.Set("webhook-signature", string(newSigner(t, key24).AppendStandard(nil, "e1", now, []byte(signedBody))))
	if err := staffetta.Verify(staffetta.SchemeStandard, []string{"whsec_" + key24}, h, []byte(signedBody)); err != nil {
		t.Error(err)
	}
}

func TestASchemeIsReadByItsName(t *testing.T) {
	for _, name := range []string{"respond.io", "standard-webhooks", "github", "stripe", "none"} {
		if s, err := staffetta.ParseScheme(name); err != nil || string(s) != name {
			t.Errorf("ParseScheme(%q) = %q, %v", name, s, err)
		}
	}
	for _, name := range []string{"", "GitHub", "gitlab"} {
		_, err := staffetta.ParseScheme(name)
		input, ok := errors.AsType[*staffetta.InputError](err)
		if !ok || !strings.Contains(input.Detail, "respond.io, standard-webhooks, github, stripe, none") {
			t.Errorf("ParseScheme(%q): %v, want an InputError that lists the schemes", name, err)
		}
	}
}

func TestAVerifierRefusesKeysThatCannotWorkAndNeverRepeatsThem(t *testing.T) {
	const secret = "not!base64"
	for _, c := range []struct {
		name   string
		scheme staffetta.Scheme
		keys   []string
	}{
		{"an unknown scheme", "gitlab", []string{secret}},
		{"no scheme", "", []string{secret}},
		{"no keys", staffetta.SchemeGitHub, nil},
		{"an empty key", staffetta.SchemeStripe, []string{secret, ""}},
		{"eleven keys", staffetta.SchemeRespondIO, strings.Split(strings.Repeat(secret+",", 10)+secret, ",")},
		{"a line break behind the key", staffetta.SchemeRespondIO, []string{secret + "\n"}},
		{"a key that is not base64", staffetta.SchemeStandard, []string{key24, secret}},
		{"nothing but a prefix", staffetta.SchemeStandard, []string{"whsec_"}},
		{"keys that nothing would use", staffetta.SchemeNone, []string{secret}},
	} {
		v, err := staffetta.NewVerifier(c.scheme, c.keys)
		if _, ok := errors.AsType[*staffetta.InputError](err); !ok || v != nil {
			t.Errorf("%s: %v, want an InputError", c.name, err)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error repeats the key: %v", c.name, err)
		}
	}
	newVerifier(t, staffetta.SchemeRespondIO, strings.Split(strings.Repeat(secret+",", 9)+secret, ",")...)
}

func TestOneVerifierServesManyGoroutines(t *testing.T) {
	v := newVerifier(t, staffetta.SchemeRespondIO, key64, key24)
	good, bad := headers("X-Webhook-Signature", respondIOVectors[0].signature), headers("X-Webhook-Signature", respondIOVectors[1].signature)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				if err := v.Verify(good, []byte(signedBody), signedNow); err != nil {
					t.Error(err)
				}
				if err := v.Verify(bad, []byte(signedBody), signedNow); !errors.Is(err, staffetta.ErrSignatureInvalid) {
					t.Errorf("got %v, want %v", err, staffetta.ErrSignatureInvalid)
				}
			}
		})
	}
	group.Wait()
}

// verifierRequests are a request of 1 KiB for each scheme, signed with key32 at signedNow.
func verifierRequests(t testing.TB) (body []byte, requests []verifierRequest) {
	body = bytes.Repeat([]byte("x"), 1024)
	s := newSigner(t, key32)
	values := map[string][]byte{
		"X-Webhook-Signature": s.AppendRespondIO(nil, body),
		"Webhook-Id":          []byte("0198c2a0-0000-7000-8000-000000000001"),
		"Webhook-Timestamp":   []byte("1784604785"),
		"Webhook-Signature":   s.AppendStandard(nil, "0198c2a0-0000-7000-8000-000000000001", 1784604785, body),
		"X-Hub-Signature-256": []byte("sha256=" + hexMAC(key32, string(body))),
		"Stripe-Signature":    []byte("t=1784604785,v1=" + hexMAC(key32, "1784604785."+string(body))),
	}
	header := func(name string) []byte { return values[name] }
	for _, scheme := range []staffetta.Scheme{staffetta.SchemeRespondIO, staffetta.SchemeStandard, staffetta.SchemeGitHub, staffetta.SchemeStripe} {
		requests = append(requests, verifierRequest{scheme, newVerifier(t, scheme, key32), header})
	}
	return body, requests
}

type verifierRequest struct {
	scheme   staffetta.Scheme
	verifier *staffetta.Verifier
	header   func(string) []byte
}

func hexMAC(key, data string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(data))
	return hex.EncodeToString(h.Sum(nil))
}

func TestAVerifierAllocatesNothing(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("under the race detector a sync.Pool loses a part of what it holds, on purpose")
	}
	body, requests := verifierRequests(t)
	for _, r := range requests {
		n := testing.AllocsPerRun(1000, func() {
			if err := r.verifier.Verify(r.header, body, signedNow); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s allocates %v times, want 0", r.scheme, n)
		}
	}
}

func BenchmarkVerifier(b *testing.B) {
	body, requests := verifierRequests(b)
	for _, r := range requests {
		b.Run(string(r.scheme), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if err := r.verifier.Verify(r.header, body, signedNow); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzVerifier: whatever the headers are, nothing panics and nothing verifies; what was signed
// does, and the answer for Standard Webhooks and respond.io is that of the functions of their own.
func FuzzVerifier(f *testing.F) {
	f.Add("t=1784604785,v1=00,v1="+stripeV1, "e1", "1784604785", []byte(signedBody))
	f.Add(gitHubSignature, "", "+1", []byte{})
	f.Add("t=,t=,v1=,,=", " v1, ", "-9223372036854775808", []byte("."))
	keys := []string{key24, key32}
	var verifiers []*staffetta.Verifier
	for _, s := range []staffetta.Scheme{staffetta.SchemeRespondIO, staffetta.SchemeStandard, staffetta.SchemeGitHub, staffetta.SchemeStripe} {
		verifiers = append(verifiers, newVerifier(f, s, keys...))
	}
	f.Fuzz(func(t *testing.T, signature, id, timestamp string, body []byte) {
		header := func(name string) []byte {
			switch name {
			case "Webhook-Id":
				return []byte(id)
			case "Webhook-Timestamp":
				return []byte(timestamp)
			}
			return []byte(signature)
		}
		for i, v := range verifiers {
			err := v.Verify(header, body, signedNow)
			if err == nil && string(body) != signedBody { // the seeds hold good ones
				t.Fatalf("verifier %d: an arbitrary signature verifies: %q", i, signature)
			}
		}
		own := staffetta.VerifyStandard(keys, id, timestamp, signature, body, signedNow, staffetta.SignatureTolerance)
		if err := verifiers[1].Verify(header, body, signedNow); !errors.Is(err, own) {
			t.Fatalf("the verifier says %v, VerifyStandard %v", err, own)
		}
		signature = "v1=AA,v1=" + hexMAC(key32, "1784604785."+string(body)) + ",t=1784604785"
		if err := verifiers[3].Verify(header, body, signedNow); err != nil {
			t.Fatalf("what was signed does not verify: %v", err)
		}
	})
}
