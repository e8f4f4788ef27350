package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta/receiver"
)

// writeCertificate makes a certificate of its own with the serial number, and gives a pool with it.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"hooks.example"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	writePEM(t, certFile, "CERTIFICATE", cert, serial)
	writePEM(t, keyFile, "PRIVATE KEY", private, serial)
	return pool
}

func writePEM(t *testing.T, name, kind string, data []byte, serial int64) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(time.Duration(serial) * time.Second) // a coarse clock must not hide the change
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestReceiverSpeaksTLSAndReadsARenewedCertificateWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCRM(takesAll)
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		pool := writeCertificate(t, certFile, keyFile, 1)
		listener := fasthttputil.NewInmemoryListener()
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()}, func(s *receiverSettings) {
			s.config.Listener, s.config.TLSCert, s.config.TLSKey = listener, certFile, keyFile
		})
		// post sends a webhook over a new connection and gives the serial number of the certificate.
		post := func(h hook, roots *x509.CertPool) (serial int64, err error) {
			client := &fasthttp.HostClient{
				Addr: "hooks.example:443", IsTLS: true, MaxIdemponentCallAttempts: 1, MaxIdleConnDuration: time.Second,
				Dial: func(string) (net.Conn, error) { return listener.Dial() },
				TLSConfig: &tls.Config{ServerName: "hooks.example", RootCAs: roots, MinVersion: tls.VersionTLS12, VerifyConnection: func(s tls.ConnectionState) error {
					serial = s.PeerCertificates[0].SerialNumber.Int64()
					return nil
				}},
			}
			defer client.CloseIdleConnections()
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.Header.SetMethod("POST")
			req.SetRequestURI("https://hooks.example/hooks/crm")
			req.SetBodyString(h.body())
			req.Header.Set("X-Webhook-Signature", respondIOSignature(t, testHookKey, h.body()))
			err = client.DoTimeout(req, resp, time.Minute)
			if err == nil && resp.StatusCode() != 200 {
				t.Errorf("%s was answered with %d", h.id(), resp.StatusCode())
			}
			return serial, err
		}
		check := func(n int, roots *x509.CertPool, want int64) {
			t.Helper()
			if serial, err := post(hook{1, n}, roots); err != nil || serial != want {
				t.Errorf("certificate %d, %v, want %d", serial, err, want)
			}
		}
		check(1, pool, 1)
		renewed := writeCertificate(t, certFile, keyFile, 2)
		c.passTo(11 * time.Second)
		check(2, renewed, 2)
		if _, err := post(hook{1, 9}, pool); err == nil {
			t.Error("the old certificate is still believed")
		}
		if err := os.WriteFile(certFile, []byte("half a certif"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.passTo(30 * time.Second)
		check(3, renewed, 2) // what cannot be read changes nothing
		if said := m.log.String(); !strings.Contains(said, "the old one stays") {
			t.Errorf("nothing is said of a certificate that cannot be read:\n%s", said)
		}
		renewed = writeCertificate(t, certFile, keyFile, 3)
		c.passTo(45 * time.Second)
		check(4, renewed, 3)
		synctest.Wait()
		checkHandedOver(t, c.all(), []hook{{1, 1}, {1, 2}, {1, 3}, {1, 4}})
		m.stop()
		if err := <-m.done; err != nil { // the log has an error that was meant
			t.Error(err)
		}
		c.close()
	})
}
