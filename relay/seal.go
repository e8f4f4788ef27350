package relay

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
)

// SecretSize is the length of the secret key in bytes: AES-256.
const SecretSize = 32

// sealVersion is the first byte of everything sealed, so that a later form can be told apart.
const sealVersion = 1

var errUnseal = errors.New("the secret key does not open it")

// Sealer encrypts what must not lie readable in the store: signing keys and the values of an
// endpoint's own headers. What it seals under one name opens under that name alone, so a record
// copied over another's does not open. It is safe for concurrent use.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer takes a key of SecretSize random bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != SecretSize {
		return nil, fmt.Errorf("secret key: has %d bytes, not %d", len(key), SecretSize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	// The nonce is random and 12 bytes long: fine for far more records than a registry ever holds.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal encrypts plain and binds it to name.
func (s *Sealer) Seal(plain []byte, name string) []byte {
	return s.aead.Seal([]byte{sealVersion}, nil, plain, []byte(name))
}

// Open decrypts what Seal made for the same name.
func (s *Sealer) Open(sealed []byte, name string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return nil, errors.New("not in a form that this version can open")
	}
	plain, err := s.aead.Open(nil, nil, sealed[1:], []byte(name))
	if err != nil {
		return nil, errUnseal
	}
	return plain, nil
}
