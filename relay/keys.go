package relay

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	endpointPrefix = "ep_"
	keyPrefix      = "key_"

	// MinAdminKey is the least length of an admin key in characters.
	MinAdminKey = 16

	secretFile = "secret.key"
	adminFile  = "admin.key"
)

// APIKey is what may be told of a workspace's key. The key itself is shown once, when it is made.
type APIKey struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// newID makes an id that is a subject token and sorts by the time it was made (a UUIDv7).
func newID(prefix string) string {
	id := uuid.Must(uuid.NewV7())
	return prefix + hex.EncodeToString(id[:])
}

// keyIDLength is the length of an API key's id, which the key starts with.
const keyIDLength = len(keyPrefix) + 2*len(uuid.UUID{})

// newAPIKey makes a key, "key_<32 hex digits>_<43 characters>", and its SHA-256.
func newAPIKey() (id, key string, hash [sha256.Size]byte) {
	id = newID(keyPrefix)
	key = id + "_" + randomText()
	return id, key, sha256.Sum256([]byte(key))
}

// apiKeyID is the id within a key, or nil where the text is no API key.
func apiKeyID(key []byte) []byte {
	if len(key) <= keyIDLength || key[keyIDLength] != '_' || !bytes.HasPrefix(key, []byte(keyPrefix)) {
		return nil
	}
	return key[:keyIDLength]
}

func randomText() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails: it ends the program instead
	return base64.RawURLEncoding.EncodeToString(raw)
}

// bearerToken is the token of an Authorization header's value, or nil where there is none.
func bearerToken(authorization []byte) []byte {
	const scheme = "Bearer "
	if len(authorization) <= len(scheme) || !bytes.EqualFold(authorization[:len(scheme)], []byte(scheme)) {
		return nil
	}
	return bytes.Trim(authorization[len(scheme):], " ")
}

// LoadSecret is the key that seals the registry: the base64 text of 32 bytes in value (the flag or
// the environment), else that of the file secret.key in dir, which is made at the first start.
func LoadSecret(value, dir string) ([]byte, error) {
	if value != "" {
		key, err := decodeSecret(value)
		if err != nil {
			return nil, fmt.Errorf("read secret key: %w", err)
		}
		return key, nil
	}
	text, _, err := loadKeyFile(filepath.Join(dir, secretFile), func() string {
		raw := make([]byte, SecretSize)
		_, _ = rand.Read(raw)
		return base64.StdEncoding.EncodeToString(raw)
	})
	if err != nil {
		return nil, fmt.Errorf("read secret key: %w", err)
	}
	key, err := decodeSecret(text)
	if err != nil {
		return nil, fmt.Errorf("read secret key: %s: %w", filepath.Join(dir, secretFile), err)
	}
	return key, nil
}

func decodeSecret(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != SecretSize {
		return nil, fmt.Errorf("must be the base64 text of %d random bytes, as \"openssl rand -base64 %d\" prints", SecretSize, SecretSize)
	}
	return key, nil
}

// LoadAdminKey is the key that may do everything: value (the flag or the environment) if it is
// given, else that of the file admin.key in dir, which is made at the first start; made says so.
func LoadAdminKey(value, dir string) (key string, made bool, err error) {
	from := "the given one"
	if key = value; key == "" {
		from = filepath.Join(dir, adminFile)
		key, made, err = loadKeyFile(from, func() string { return "admin_" + randomText() })
		if err != nil {
			return "", false, fmt.Errorf("read admin key: %w", err)
		}
	}
	if err := checkAdminKey(key); err != nil {
		return "", false, fmt.Errorf("read admin key: %s: %w", from, err)
	}
	return key, made, nil
}

func checkAdminKey(key string) error {
	if len(key) < MinAdminKey {
		return fmt.Errorf("must have at least %d characters", MinAdminKey)
	}
	if strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return errors.New("must be visible ASCII characters without spaces, for it travels in a header")
	}
	return nil
}

// loadKeyFile reads a key from a file that is closed to other users, or makes the file.
func loadKeyFile(path string, generate func() string) (key string, made bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = generate()
		return key, true, writeKeyFile(path, key)
	}
	if err != nil {
		return "", false, err
	}
	// The group's bits are let pass: a Kubernetes volume with an fsGroup sets them on every file at
	// every mount. Windows keeps no such bits at all.
	if mode := info.Mode().Perm(); mode&0o007 != 0 && runtime.GOOS != "windows" {
		return "", false, fmt.Errorf("%s is open to every user of the machine (mode %04o): run \"chmod 600 %s\", and replace the key if somebody may have seen it", path, mode, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", false, err
	}
	if key = strings.TrimSpace(string(text)); key == "" {
		return "", false, fmt.Errorf("%s is empty: restore it from a backup, or remove it if the relay has never run on this folder", path)
	}
	return key, false, nil
}

// writeKeyFile never replaces a file: of two processes at their first start one fails.
func writeKeyFile(path, key string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if _, err := f.WriteString(key + "\n"); err != nil {
		return err
	}
	return f.Sync()
}
