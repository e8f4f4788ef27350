package staffetta

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"strconv"
	"time"
)

// SignatureTolerance is how far a signed timestamp may be from now, in either direction, unless
// the receiver says otherwise: what the Standard Webhooks libraries use.
const SignatureTolerance = 5 * time.Minute

const (
	// standardKeyPrefix marks a key of Standard Webhooks; it is not part of the base64 text.
	standardKeyPrefix = "whsec_"
	// standardVersion marks a symmetric signature in the list of webhook-signature.
	standardVersion = "v1,"
)

// Signer holds the keyed state of one signing key, so that a signature costs no key setup and no
// allocation (BenchmarkSigner). It is not safe for concurrent use.
type Signer struct {
	respondIO, standard hash.Hash
	// head is id.timestamp. of the message being signed, sum its HMAC: fields, because what
	// is handed to a hash.Hash escapes.
	head []byte
	sum  [sha256.Size]byte
}

// NewSigner makes the signer of a key that ValidateSigningKey accepts.
func NewSigner(key string) (*Signer, error) {
	if err := ValidateSigningKey(key); err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, err // unreachable: it was validated above
	}
	s := &Signer{
		respondIO: hmac.New(sha256.New, []byte(key)),
		standard:  hmac.New(sha256.New, raw),
		head:      make([]byte, 0, MaxEventID+len(".-9223372036854775808.")),
	}
	// The first Reset keeps the keyed state that every later one restores.
	s.respondIO.Reset()
	s.standard.Reset()
	return s, nil
}

// AppendRespondIO appends the value of X-Webhook-Signature: the base64 text of the HMAC-SHA256 of
// the body, keyed with the bytes of the key's text.
func (s *Signer) AppendRespondIO(dst, body []byte) []byte {
	return s.append(dst, s.respondIO, nil, body)
}

// AppendStandard appends one entry of webhook-signature: "v1," and the base64 text of the
// HMAC-SHA256 of id.timestamp.body, keyed with the decoded key. The timestamp is in Unix seconds.
// Several entries in one header are separated by a space, which the caller writes.
func (s *Signer) AppendStandard(dst []byte, id string, timestamp int64, body []byte) []byte {
	s.head = append(append(s.head[:0], id...), '.')
	s.head = append(strconv.AppendInt(s.head, timestamp, 10), '.')
	return s.append(append(dst, standardVersion...), s.standard, s.head, body)
}

func (s *Signer) append(dst []byte, h hash.Hash, head, body []byte) []byte {
	h.Reset()
	h.Write(head)
	h.Write(body)
	return base64.StdEncoding.AppendEncode(dst, h.Sum(s.sum[:0]))
}

// NewSigningKey makes a key: the base64 text, 44 characters, of 32 random bytes.
func NewSigningKey() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the process instead
	return base64.StdEncoding.EncodeToString(raw[:])
}

// VerifyRespondIO checks the value of X-Webhook-Signature against every key; one that matches is
// enough. Keys are texts as the platform shows them. The error is ErrSignatureMissing or
// ErrSignatureInvalid. A Verifier does it with less work.
func VerifyRespondIO(keys []string, signature string, body []byte) error {
	raw := make([][]byte, 0, len(keys))
	for _, key := range keys {
		if key != "" { // anybody can sign with the empty key
			raw = append(raw, []byte(key))
		}
	}
	return newChecker(raw).respondIO([]byte(signature), body)
}

// VerifyStandard checks the three webhook-* headers of Standard Webhooks against every key; one
// signature of the list that matches one key is enough. Keys are base64 text with or without
// "whsec_"; one that cannot be decoded matches nothing. Signatures of other versions than v1 are
// passed over. The timestamp may be tolerance (usually SignatureTolerance) away from now, and is
// looked at only once a signature over it has matched. The error is ErrSignatureMissing,
// ErrSignatureInvalid or ErrTimestampOutside. A Verifier does it with less work.
func VerifyStandard(keys []string, id, timestamp, signatures string, body []byte, now time.Time, tolerance time.Duration) error {
	raw := make([][]byte, 0, len(keys))
	for _, key := range keys {
		if decoded, ok := standardKey(key); ok {
			raw = append(raw, decoded)
		}
	}
	return newChecker(raw).standard([]byte(id), []byte(timestamp), []byte(signatures), body, now, tolerance)
}
