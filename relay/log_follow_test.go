package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

func TestAFollowerGetsWhatItsFilterWantsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		ctx, cancel := context.WithCancel(t.Context())
		all, err := l.Follow(ctx, AttemptFilter{Workspace: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		failures, err := l.Follow(t.Context(), AttemptFilter{Workspace: "acme", Status: "500"})
		if err != nil {
			t.Fatal(err)
		}
		var last LogPosition
		for i := range 50 {
			l.Record(attemptOf(fmt.Sprint(i), of("beta", "ep_9", "call.ended")))
			l.Record(attemptOf(fmt.Sprint(i), failedWith(500+i%2)))
			got := <-all
			if got.EventID != fmt.Sprint(i) || got.Lagged != 0 || !last.Before(got.Position) {
				t.Fatalf("%d: %+v", i, got)
			}
			last = got.Position
			if i%2 == 0 {
				if got := <-failures; got.Outcome.Status != 500 {
					t.Fatalf("%+v", got)
				}
			}
		}
		cancel()
		if _, open := <-all; open {
			t.Error("an ended follower got something")
		}
		l.stop()
		if _, open := <-failures; open {
			t.Error("a follower of an ended log got something")
		}
		late, err := l.Follow(t.Context(), AttemptFilter{Workspace: "acme"})
		if _, open := <-late; open || err != nil {
			t.Error("an ended log can be followed")
		}
	})
}

func TestASlowFollowerIsToldHowManyItMissedAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t, func(c *AttemptLogConfig) { c.Followers = 2 })
		slow, err := l.Follow(t.Context(), AttemptFilter{Workspace: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Follow(t.Context(), AttemptFilter{Workspace: "acme"}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Follow(t.Context(), AttemptFilter{Workspace: "acme"}); !errors.Is(err, errFollowers) {
			t.Errorf("a third follower: %v", err)
		}
		for i := range 1000 {
			l.Record(attemptOf(fmt.Sprint(i)))
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range followBuffer {
			if got := <-slow; got.EventID != fmt.Sprint(i) || got.Lagged != 0 {
				t.Fatalf("%d: %s, lagged %d", i, got.EventID, got.Lagged)
			}
		}
		l.Record(attemptOf("next"))
		if got := <-slow; got.EventID != "next" || got.Lagged != 1000-followBuffer {
			t.Errorf("%s, lagged %d", got.EventID, got.Lagged)
		}
	})
}
