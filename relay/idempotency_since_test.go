package relay

import (
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A start after a kill looks through the events of since then, so a key whose event may be stored must
// hold it back until it is on record itself.
func TestTheRecordSaysFromWhenOnEventsMayLackIt(t *testing.T) {
	x := newTestIngest(t, 1).idempotency
	held, other := fingerprintOf("acme", keyOfRequest, "held"), fingerprintOf("acme", keyOfRequest, "other")
	claimed := time.Now().Add(-time.Hour)
	recorded := func() time.Time {
		t.Helper()
		x.write(t.Context())
		y := newIdempotency(x.js, x.reads, 1000, zerolog.Nop())
		if err := y.load(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		return y.since
	}

	x.claim(held, claimed)
	x.claim(other, time.Now())
	x.accept(other, "", time.Now())
	if since := recorded(); since.After(claimed) || claimed.Sub(since) > time.Millisecond {
		t.Errorf("while a request works on a key of %v the record says %v", claimed, since)
	}
	x.accept(held, "", time.Now())
	before := time.Now().Truncate(time.Millisecond)
	if since := recorded(); since.Before(before) {
		t.Errorf("with every key on record it says %v, want %v or later", since, before)
	}
	x.claim(fingerprintOf("acme", keyOfRequest, "refused"), claimed)
	x.release(fingerprintOf("acme", keyOfRequest, "refused"), "an-id", map[string]bool{"ep_1": true})
	since := recorded()
	y := newIdempotency(x.js, x.reads, 1000, zerolog.Nop())
	if err := y.load(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if c := y.claim(fingerprintOf("acme", keyOfRequest, "refused"), time.Now()); since.Before(before) || c.found == nil || !c.found.endpoints["ep_1"] {
		t.Errorf("an event that is stored in part is found as %+v, since %v", c.found, since)
	}
}
