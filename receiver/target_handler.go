package receiver

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// Every kind of target can be checked, and opened. open reaches nothing yet: the first event does.
var _ = []interface {
	validate() error
	open() (handler, error)
}{HTTPTarget{}, PostgresTarget{}, NATSTarget{}, FileTarget{}, HandleTarget{}}

// defaultTimeout is how long a hand-over may take.
const defaultTimeout = 30 * time.Second

// maxDetail bounds the detail of an outcome, in bytes, where others wrote it.
const maxDetail = 200

// timeoutOf checks the Timeout of a kind of target.
func timeoutOf(kind string, d time.Duration) error {
	if d != 0 && (d < 10*time.Millisecond || d > time.Hour) {
		return onField(kind, "Timeout", "must be between 10ms and 1h")
	}
	return nil
}

func orDefault(d time.Duration) time.Duration {
	if d == 0 {
		return defaultTimeout
	}
	return d
}

// targetFailed is a failure that may pass.
func targetFailed(kind staffetta.ErrorKind, detail string) sender.Handed {
	return sender.Handed{Outcome: staffetta.Outcome{Error: kind, Detail: detail}}
}

// targetRefused is a failure that will not pass.
func targetRefused(detail string) sender.Handed {
	h := targetFailed(staffetta.ErrorTarget, detail)
	h.Permanent = true
	return h
}

// cutOff says that the receiver stops; the event is handed over again.
func cutOff() sender.Handed {
	return targetFailed(staffetta.ErrorLocal, "the attempt was cut off by the receiver")
}

// damaged is for an entry whose request cannot be read.
func damaged() sender.Handed { return targetRefused(errStored.Error()) }

// firstLine is a text of others, fit for a detail: one line of valid UTF-8, without control
// characters, of at most maxDetail bytes.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > maxDetail {
		line = line[:maxDetail]
		for len(line) > 0 && !utf8.RuneStart(s[len(line)]) {
			line = line[:len(line)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(line, "?"))
}

// onField says which field of a target is wrong.
func onField(kind, field, detail string) error {
	return fmt.Errorf("%s target: %s: %s", kind, field, detail)
}
