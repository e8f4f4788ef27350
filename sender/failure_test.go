package sender

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestAFailureOfAnyStepHasAKind(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		err  error
		at   Step
		late bool
		want staffetta.ErrorKind
	}{
		{refused, StepDial, false, staffetta.ErrorRefused},
		{&net.DNSError{IsNotFound: true}, StepDial, false, staffetta.ErrorDNS},
		{&net.DNSError{IsTimeout: true}, StepDial, false, staffetta.ErrorDNS},
		{&net.DNSError{IsTimeout: true}, StepDial, true, staffetta.ErrorTimeout},
		{context.DeadlineExceeded, StepDial, true, staffetta.ErrorTimeout},
		{syscall.EMFILE, StepDial, false, staffetta.ErrorLocal},
		{x509.UnknownAuthorityError{}, StepTLS, false, staffetta.ErrorTLS},
		{io.EOF, StepTLS, false, staffetta.ErrorTLS},
		{context.DeadlineExceeded, StepTLS, true, staffetta.ErrorTimeout},
		{os.ErrDeadlineExceeded, StepRequest, true, staffetta.ErrorTimeout},
		{io.EOF, StepRequest, false, staffetta.ErrorReset},
		{io.EOF, StepResponse, false, staffetta.ErrorReset},
		{errors.New("anything"), StepResponse, false, staffetta.ErrorReset},
	} {
		got := FailureOutcome(c.err, c.at, c.late)
		if got.Error != c.want || got.Detail == "" {
			t.Errorf("%v at step %d: %v; want %v", c.err, c.at, got, c.want)
		}
	}
}
