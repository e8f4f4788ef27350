package embed

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestTheLogSumsARecoveryUpAndNeverQuotesAClient(t *testing.T) {
	out := new(bytes.Buffer)
	l := &serverLog{log: zerolog.New(out), recovering: true}
	for range 64 {
		l.Warnf("Filestore [%s] Stream state outdated, last block has additional entries, will rebuild", "EVENTS_1")
		l.Warnf("Filestore [%s] Recovering stream state from index errored: %v", "EVENTS_1", "prior state file")
	}
	l.Noticef("  Restored 1 messages")
	l.recovered()
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"streams_rebuilt":64`) {
		t.Errorf("a recovery logged:\n%s", got)
	}

	out.Reset()
	l.Warnf("Healthcheck failed: %q", "returned to the caller")
	l.Errorf("%s parser ERROR, state=%d, i=%d: proto='%s...'", "client", 1, 2, "secret payload")
	l.Warnf("Filestore [%s] Stream state outdated", "EVENTS_1")
	got := out.String()
	if strings.Contains(got, "secret") || strings.Contains(got, "Healthcheck") || strings.Count(got, "\n") != 2 {
		t.Errorf("logged:\n%s", got)
	}
}
