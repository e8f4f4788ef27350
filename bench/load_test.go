package bench

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
)

// taker is a program that takes events as a test wants it to.
type taker struct {
	layout    *Layout
	tracks    []*Track
	judge     *Judge
	producers *Producers
	posts     atomic.Int64
	answer    func(post int64) int // the status
}

// inTaker runs a test with producers and their program in memory.
func inTaker(t *testing.T, endpoints, producers, batch, window int, test func(*testing.T, *taker)) {
	synctest.Test(t, func(t *testing.T) {
		templates, err := NewTemplates(MinPayload)
		if err != nil {
			t.Fatal(err)
		}
		k := &taker{answer: func(int64) int { return 202 }}
		if k.layout, err = NewLayout("w", endpoints, PerWorkspace, false, templates.Types()); err != nil {
			t.Fatal(err)
		}
		var crews [][]*crew
		k.tracks, crews = k.layout.Tracks(producers, templates)
		k.judge = NewJudge(k.layout, k.tracks)
		network := newMemory()
		l, err := network.listen("program:80")
		if err != nil {
			t.Fatal(err)
		}
		server := &fasthttp.Server{NoDefaultDate: true, Handler: func(ctx *fasthttp.RequestCtx) { k.take(ctx, batch) }}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = server.Serve(l)
		}()
		dialect := RelayDialect(k.layout, "key", batch)
		k.producers = NewProducers(LoadConfig{
			Address: "program:80", Dial: network.dial, Dialect: dialect, Crews: crews, Size: MinPayload, Batch: batch,
			Window: window, Arrived: k.judge.Arrived, Doze: func(d time.Duration) { pause(context.Background(), d) },
		})
		test(t, k)
		k.producers.Close()
		_ = server.Shutdown()
		<-served
		pause(context.Background(), time.Minute) // fasthttp's clients end
	})
}

// take judges the events of a post that it answers with 202, as if they were delivered at once.
func (k *taker) take(ctx *fasthttp.RequestCtx, batch int) {
	status := k.answer(k.posts.Add(1))
	ctx.SetStatusCode(status)
	if status != 202 {
		return
	}
	n := 0
	for line := range bytes.Lines(ctx.PostBody()) {
		m, ok := markOf(bytes.TrimSuffix(line, []byte("\n")))
		if ok && int(m.Track) < len(k.tracks) && strings.HasSuffix(string(ctx.Path()), "/"+k.layout.Workspaces[k.tracks[m.Track].Workspace].ID+"/events") {
			k.judge.Arrive(m, k.tracks[m.Track].First, time.Now().UnixNano())
			n++
		}
	}
	if batch > 1 {
		_, _ = ctx.WriteString(`{"accepted":` + string(rune('0'+n)) + `,"rejected":[]}`)
	}
}

func (k *taker) mustBeWell(t *testing.T) {
	t.Helper()
	got := k.judge.Judge()
	if got.Lost+got.Duplicated+got.OutOfOrder+got.Strays != 0 || got.Arrived != got.Accepted || got.Accepted != k.producers.Accepted() {
		t.Errorf("%+v, accepted %d", got, k.producers.Accepted())
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= want/500 }

// TestAnOpenLoopCountsAStallFromThePlannedTimes has ten sends a second and a program that stops for a
// second: every event that the stall held up shows it, not the one alone that met it.
func TestAnOpenLoopCountsAStallFromThePlannedTimes(t *testing.T) {
	inTaker(t, 1, 1, 1, 0, func(t *testing.T, k *taker) {
		k.answer = func(post int64) int {
			if post == 11 {
				pause(context.Background(), time.Second)
			}
			return 202
		}
		m := k.judge.Measure(time.Now())
		load, err := k.producers.Open(t.Context(), Constant(10, 4*time.Second))
		if err != nil || load.Offered != 40 || load.Accepted != 40 || load.Saturated() {
			t.Fatalf("%+v %v", load, err)
		}
		for name, h := range map[string]*Histogram{"ack": load.Ack, "latency": m.Latency()} {
			late := 0
			for _, b := range h.merged().Distribution() {
				if b.To > 50_000 {
					late += int(b.Count)
				}
			}
			// The stall of 1 s holds up its own event and the nine planned in it: 1000, 900, … 100 ms.
			if q := h.Quantiles(); late != 10 || !near(q.Max, 1000) || !near(q.P90, 600) || q.P50 > 1 {
				t.Errorf("%s: %d late, %+v", name, late, q)
			}
		}
		k.mustBeWell(t)
	})
}

func TestSaturationIsSaidAndNotALowerRate(t *testing.T) {
	inTaker(t, 20, 4, 1, 0, func(t *testing.T, k *taker) {
		k.answer = func(int64) int {
			pause(context.Background(), 100*time.Millisecond) // so four producers make 40 a second
			return 202
		}
		load, err := k.producers.Open(t.Context(), Constant(100, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if load.Offered != 1000 || load.Unsent != load.Offered-load.Accepted || !load.Saturated() || load.Accepted > 500 {
			t.Errorf("%+v", load)
		}
		if q := load.Ack.Quantiles(); q.Max < 5000 {
			t.Errorf("the answers do not show it: %+v", q)
		}
		k.mustBeWell(t)
	})
}

func TestAClosedLoopSendsWhenItIsAnswered(t *testing.T) {
	inTaker(t, 20, 4, 5, 0, func(t *testing.T, k *taker) {
		k.answer = func(int64) int {
			pause(context.Background(), 100*time.Millisecond)
			return 202
		}
		load, err := k.producers.Closed(t.Context(), time.Second)
		if err != nil || load.Offered != 200 || load.Accepted != 200 {
			t.Errorf("%+v %v", load, err)
		}
		k.mustBeWell(t)
	})
}

func TestWhatIsNotTakenIsSentAgainAndNothingOvertakesIt(t *testing.T) {
	inTaker(t, 12, 3, 3, 0, func(t *testing.T, k *taker) {
		var down atomic.Bool
		k.answer = func(post int64) int {
			pause(context.Background(), 10*time.Millisecond)
			if down.Load() || post%4 == 0 {
				return 503
			}
			return 202
		}
		phase := func() *Load {
			load, err := k.producers.Closed(t.Context(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return load
		}
		if load := phase(); load.Failed == 0 || load.Accepted != load.Offered {
			t.Errorf("%+v", load)
		}
		down.Store(true)
		if load := phase(); load.Accepted != 0 || load.Offered != 9 || !strings.Contains(load.Problems[0], "503") {
			t.Errorf("while it is down: %+v", load)
		}
		down.Store(false)
		if load := phase(); load.Accepted != load.Offered+9 {
			t.Errorf("afterwards: %+v", load)
		}
		k.mustBeWell(t)
	})
}

func TestARefusedEventEndsTheLoad(t *testing.T) {
	for _, status := range []int{401, 404, 422} {
		inTaker(t, 1, 2, 1, 0, func(t *testing.T, k *taker) {
			k.answer = func(int64) int { return status }
			start := time.Now()
			_, err := k.producers.Closed(t.Context(), time.Hour)
			if err == nil || errors.Is(err, ErrAgain) || time.Since(start) > time.Second {
				t.Errorf("status %d: %v after %s", status, err, time.Since(start))
			}
		})
	}
}

func TestAWindowHoldsTheProducersBack(t *testing.T) {
	inTaker(t, 10, 1, 1, 5, func(t *testing.T, k *taker) {
		k.judge.tracks = nil // nothing arrives
		load, err := k.producers.Closed(t.Context(), time.Second)
		if err != nil || load.Accepted != 6 || load.Took > 2*time.Second {
			t.Errorf("%+v %v", load, err)
		}
	})
}
