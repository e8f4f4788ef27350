package embed

import (
	"fmt"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// serverLog passes the server's warnings and errors on. While it recovers from a kill, what that
// makes it say about each stream becomes one line for all.
type serverLog struct {
	log zerolog.Logger

	mu         sync.Mutex
	recovering bool
	rebuilt    int
	fatally    string
}

// rebuilds are the warnings of a stream whose index is older than its blocks: what a kill leaves.
var rebuilds = []string{
	"Stream state outdated",
	"Stream state detected prior state",
	"Recovering stream state from index errored",
}

// recovered ends the recovery and says in a line what there was to repair.
func (l *serverLog) recovered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recovering {
		l.log.Warn().Int("streams_rebuilt", l.rebuilt).Msg("the last run did not end cleanly; the store was recovered")
	}
	l.recovering = false
}

// fatal is why the server could not start, or empty.
func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatally
}

func (l *serverLog) Warnf(format string, v ...any) {
	line := text(format, v)
	if l.expected(line) {
		return
	}
	l.log.Warn().Str("server", line).Msg("embedded nats server")
}

func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error().Str("server", text(format, v)).Msg("embedded nats server")
}

// Fatalf keeps the reason for Start to return: the server goes on by itself to shut down.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatally == "" {
		l.fatally = text(format, v)
	}
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

// expected reports a line that needs no mention: what a kill explains, which it counts, and what
// Health returns to its caller anyway.
func (l *serverLog) expected(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.recovering {
		return strings.HasPrefix(line, "Healthcheck failed")
	}
	for i, part := range rebuilds {
		if strings.Contains(line, part) {
			if i == len(rebuilds)-1 {
				l.rebuilt++
			}
			return true
		}
	}
	return false
}

// text is a server's line without the bytes of a client, which its parser quotes.
func text(format string, v []any) string {
	line, _, _ := strings.Cut(fmt.Sprintf(format, v...), "proto=")
	return strings.TrimSpace(line)
}
