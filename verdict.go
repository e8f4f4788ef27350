package staffetta

import (
	"strconv"
	"time"
)

// ErrorKind is what stopped an attempt from getting a status. The set is closed, so that it can be
// a metric's label and a filter of the log.
type ErrorKind uint8

// The kinds of error. Every one but ErrorNone, ErrorLocal and ErrorHeld is the endpoint's failure.
const (
	// ErrorNone: there was a status.
	ErrorNone ErrorKind = iota
	// ErrorTimeout: the deadline passed before the last byte of the response head.
	ErrorTimeout
	// ErrorRefused: nothing listens at the address, or no route leads there.
	ErrorRefused
	// ErrorReset: the peer closed or reset the connection before the response head was whole.
	ErrorReset
	// ErrorTLS: the handshake failed or the certificate is not to be trusted.
	ErrorTLS
	// ErrorDNS: the name does not resolve.
	ErrorDNS
	// ErrorForbidden: the network guard refuses the address that the name leads to.
	ErrorForbidden
	// ErrorProtocol: what came back is not HTTP, or its head is too large.
	ErrorProtocol
	// ErrorLocal: our own fault (no free socket or descriptor, shutting down); never counted.
	ErrorLocal
	// ErrorHeld: no attempt; the event was held for a disabled endpoint beyond what is held.
	ErrorHeld
	// ErrorTarget: what is not reached over HTTP (a database, a queue, a file, a function) failed, or
	// refused the event.
	ErrorTarget
)

var errorKindNames = [...]string{
	ErrorNone:      "",
	ErrorTimeout:   "timeout",
	ErrorRefused:   "refused",
	ErrorReset:     "reset",
	ErrorTLS:       "tls",
	ErrorDNS:       "dns",
	ErrorForbidden: "forbidden_address",
	ErrorProtocol:  "protocol",
	ErrorLocal:     "local",
	ErrorHeld:      "held",
	ErrorTarget:    "target",
}

// ErrorKinds lists every kind, in order, for metrics that want all labels from the start.
func ErrorKinds() []ErrorKind {
	kinds := make([]ErrorKind, len(errorKindNames))
	for i := range kinds {
		kinds[i] = ErrorKind(i)
	}
	return kinds
}

func (k ErrorKind) String() string {
	if int(k) < len(errorKindNames) {
		return errorKindNames[k]
	}
	return "unknown"
}

// Outcome is what one attempt came to: a status, or the kind of error that kept one from coming.
type Outcome struct {
	// Status is the HTTP status, 0 where Error says why there is none.
	Status int
	Error  ErrorKind
	// Detail is one line for a person about Error; empty where there is a status.
	Detail string
}

func (o Outcome) String() string {
	switch {
	case o.Error == ErrorNone:
		return "status " + strconv.Itoa(o.Status)
	case o.Detail == "":
		return o.Error.String()
	default:
		return o.Error.String() + ": " + o.Detail
	}
}

// Action is what becomes of a delivery after an attempt.
type Action uint8

// The actions.
const (
	// Deliver: the endpoint has accepted the event; the next one may go.
	Deliver Action = iota
	// Retry: wait, then make the next attempt; nothing behind this event moves.
	Retry
	// Drop: the attempts are used up; the event goes to the dead letters and the next one may go.
	Drop
	// Again: a fault of ours; wait a little and make the same attempt again.
	Again
)

func (a Action) String() string {
	switch a {
	case Deliver:
		return "delivered"
	case Retry:
		return "retry"
	case Drop:
		return "dropped"
	case Again:
		return "again"
	}
	return "unknown"
}

// Verdict is the decision on one attempt.
type Verdict struct {
	Action Action
	// Wait is the gap until the next attempt, for Retry and Again.
	Wait time.Duration
	// Counts says that the attempt is one of the endpoint's failures.
	Counts bool
	// Stop says that the failure used up the quota: no further attempt until the endpoint is
	// enabled again. Decide never sets it; who counts does.
	Stop bool
}

// Decide turns what attempt number n (from 1) came to into what happens next. It has no memory
// and no clock: the same arguments always give the same Verdict.
func (p Policy) Decide(o Outcome, success Success, n int) Verdict {
	switch {
	case o.Error == ErrorLocal:
		return Verdict{Action: Again, Wait: p.LocalRetry}
	case o.Error == ErrorHeld:
		return Verdict{Action: Drop}
	case o.Error == ErrorNone && success.Accepts(o.Status):
		return Verdict{Action: Deliver}
	case n <= len(p.Retry):
		return Verdict{Action: Retry, Wait: p.Retry[max(n, 1)-1], Counts: true}
	default:
		return Verdict{Action: Drop, Counts: true}
	}
}
