package receiver

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certificateLook is how often the files of the certificate are looked at for a change.
const certificateLook = 10 * time.Second

// certificate is a key pair in files, read again once they change: a renewal needs no restart.
type certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	version [2]time.Time // of the files that current was read from
	looked  time.Time
}

func loadCertificate(certFile, keyFile string, log zerolog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	return c, c.read()
}

func (c *certificate) read() error {
	version, err := c.versions()
	if err != nil {
		return fmt.Errorf("read TLS certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read TLS certificate: %w", err)
	}
	c.current, c.version, c.looked = &pair, version, time.Now()
	return nil
}

func (c *certificate) versions() (v [2]time.Time, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return v, err
		}
		v[i] = info.ModTime()
	}
	return v, nil
}

// get is for a handshake. Where the new files cannot be read, the old pair stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateLook {
		return c.current, nil
	}
	c.looked = time.Now()
	if v, err := c.versions(); err == nil && v == c.version {
		return c.current, nil
	}
	if err := c.read(); err != nil {
		c.log.Error().Err(err).Msg("the new TLS certificate cannot be used; the old one stays")
	} else {
		c.log.Info().Msg("TLS certificate read again")
	}
	return c.current, nil
}
