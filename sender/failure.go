package sender

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// What an answer that is no answer can be, besides what the network says.
var (
	errNotHTTP      = errors.New("not HTTP/1.x")
	errHeadTooLarge = errors.New("response head too large")
	errInterim      = errors.New("too many interim responses")
)

// Step is what an exchange was at when it failed.
type Step uint8

// The steps.
const (
	// StepDial: resolving the name and connecting.
	StepDial Step = iota
	// StepTLS: the handshake.
	StepTLS
	// StepRequest: sending, and waiting for the first byte of the answer.
	StepRequest
	// StepResponse: a part of the answer's head had come.
	StepResponse
)

// FailureOutcome turns a failure of the network into an outcome; late says that the deadline of the
// whole exchange has passed. An err that is not of the network counts as a closed connection. No
// address, query, header or key is in the text.
func FailureOutcome(err error, at Step, late bool) staffetta.Outcome {
	switch at {
	case StepDial:
		return dialOutcome(err, late)
	case StepTLS:
		return dialOutcome(&tlsError{err}, late)
	default:
		return exchangeOutcome(err, at == StepResponse)
	}
}

// dialOutcome turns the failure to get a connection into an outcome; late says that the deadline
// has passed. The texts are for the endpoint's owner: no address, query, header or key is in them.
func dialOutcome(err error, late bool) staffetta.Outcome {
	if e, ok := errors.AsType[*forbiddenAddress](err); ok {
		return failed(staffetta.ErrorForbidden, "the host leads to "+e.kind+", where nothing is delivered")
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return dnsOutcome(e, late)
	}
	if e, ok := errors.AsType[*tlsError](err); ok {
		return tlsOutcome(e.error)
	}
	switch {
	case isLocalFault(err):
		return localOutcome(err)
	case isTimeout(err):
		return failed(staffetta.ErrorTimeout, "no connection within the deadline")
	case errors.Is(err, syscall.ECONNREFUSED):
		return failed(staffetta.ErrorRefused, "the connection was refused")
	case errors.Is(err, syscall.ECONNRESET):
		return failed(staffetta.ErrorReset, "the connection was reset while it was being made")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return failed(staffetta.ErrorRefused, "no route leads to the host")
	default:
		return failed(staffetta.ErrorRefused, "the connection could not be made")
	}
}

func dnsOutcome(e *net.DNSError, late bool) staffetta.Outcome {
	switch {
	case isLocalFault(e):
		return localOutcome(e)
	case e.IsNotFound:
		return failed(staffetta.ErrorDNS, "the host name does not exist")
	case e.IsTimeout && late:
		return failed(staffetta.ErrorTimeout, "the host name was not resolved within the deadline")
	default:
		return failed(staffetta.ErrorDNS, "the host name cannot be resolved at the moment")
	}
}

func tlsOutcome(err error) staffetta.Outcome {
	if isTimeout(err) {
		return failed(staffetta.ErrorTimeout, "the TLS handshake did not end within the deadline")
	}
	detail := "the TLS handshake failed"
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		detail = "the certificate is for another host"
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		detail = "the certificate is signed by an unknown authority; is the intermediate certificate missing?"
	} else if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		detail = "the certificate has expired or is not valid yet"
	} else if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		detail = "the endpoint does not speak TLS on this port"
	} else if e, ok := remoteAlert(err); ok {
		detail = "the endpoint refused the TLS handshake: " + e.Err.Error()
	} else if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		detail = "the endpoint closed the connection during the TLS handshake"
	}
	return failed(staffetta.ErrorTLS, detail)
}

// remoteAlert finds the alert that a peer sent; package tls has no other mark for it.
func remoteAlert(err error) (*net.OpError, bool) {
	e, ok := errors.AsType[*net.OpError](err)
	return e, ok && e.Op == "remote error"
}

// exchangeOutcome turns a failure on an open connection into an outcome; begun says that a part of
// the response head had come.
func exchangeOutcome(err error, begun bool) staffetta.Outcome {
	switch {
	case errors.Is(err, errNotHTTP):
		return failed(staffetta.ErrorProtocol, "what came back is not HTTP/1.x")
	case errors.Is(err, errHeadTooLarge):
		return failed(staffetta.ErrorProtocol, "the response head is larger than 16 KiB")
	case errors.Is(err, errInterim):
		return failed(staffetta.ErrorProtocol, "interim (1xx) responses, but no final one")
	case isLocalFault(err):
		return localOutcome(err)
	case isTimeout(err) && begun:
		return failed(staffetta.ErrorTimeout, "the response head was not complete within the deadline")
	case isTimeout(err):
		return failed(staffetta.ErrorTimeout, "no response within the deadline")
	}
	if _, ok := remoteAlert(err); ok {
		return tlsOutcome(err)
	}
	if begun {
		return failed(staffetta.ErrorReset, "the connection was closed in the middle of the response head")
	}
	return failed(staffetta.ErrorReset, "the connection was closed before the response")
}

// localFaults are errors of this machine, not of the endpoint.
var localFaults = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, fasthttp.ErrNoFreeConns,
}

// isLocalFault reports whether err is our own fault. The resolver keeps but the text of its
// reasons. No free local port and no IPv6 on this machine are the same error: only the first is ours.
func isLocalFault(err error) bool {
	dns, isDNS := errors.AsType[*net.DNSError](err)
	for _, fault := range localFaults {
		if errors.Is(err, fault) || isDNS && strings.HasSuffix(dns.Err, ": "+fault.Error()) {
			return true
		}
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL) && !towardsIPv6(err)
}

func towardsIPv6(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Addr == nil {
		return false
	}
	target, err := netip.ParseAddrPort(e.Addr.String())
	return err == nil && target.Addr().Is6()
}

func localOutcome(err error) staffetta.Outcome {
	switch {
	case errors.Is(err, fasthttp.ErrNoFreeConns):
		return failed(staffetta.ErrorLocal, "too many connections to this host are open")
	default:
		return failed(staffetta.ErrorLocal, "this machine has no free socket, port or memory")
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && e.Timeout()
}

func failed(kind staffetta.ErrorKind, detail string) staffetta.Outcome {
	return staffetta.Outcome{Error: kind, Detail: detail}
}
