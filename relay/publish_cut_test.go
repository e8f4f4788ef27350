package relay

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// cutter cuts the connections to the store in the middle of what they write, each time it is armed.
type cutter struct {
	nats.InProcessConnProvider
	armed *atomic.Bool
	cuts  *atomic.Int64
}

func (c cutter) InProcessConn() (net.Conn, error) {
	conn, err := c.InProcessConnProvider.InProcessConn()
	return cutConn{conn, c}, err
}

type cutConn struct {
	net.Conn
	cutter
}

func (c cutConn) Write(b []byte) (int, error) {
	if len(b) < 2000 || !c.armed.CompareAndSwap(true, false) {
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:len(b)*int(c.cuts.Add(1)%7)/7])
	_ = c.Close()
	return n, errors.New("cut by the test")
}

func TestEventsKeepTheirOrderAndComeOnceWhileTheWayIntoTheStoreIsCut(t *testing.T) {
	const producers, endpoints, batch, most = 3, 6, 100, 12
	c := cutter{armed: new(atomic.Bool), cuts: new(atomic.Int64)}
	in := newTestIngest(t, endpoints, func(o *nats.Options) error {
		c.InProcessConnProvider = o.InProcessServer
		o.InProcessServer = c
		return nil
	})
	// Each producer sends its batches in order, and each until it is accepted; from time to time one of
	// them finds the connection cut.
	var wg sync.WaitGroup
	for producer := range producers {
		wg.Go(func() {
			for round := range most {
				var body []byte
				for i := range batch {
					body = append(numberedEvent(t, body, producer*1_000_000+round*batch+i), '\n')
				}
				if round%2 == 1 {
					c.armed.Store(true)
				}
				_, err := in.batch(t.Context(), "acme", body)
				for ; errors.Is(err, errPressure); _, err = in.batch(t.Context(), "acme", body) {
					pause(t.Context(), 10*time.Millisecond)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	last := make(map[string]int) // of a producer's events at an endpoint
	total := 0
	for shard := range 4 {
		err := eventShelf(in.publisher.cfg.reads, shard).each(t.Context(), staffetta.EventSubjects(shard), 1, ^uint64(0), 0, func(m *shelved) error {
			n, err := strconv.Atoi(m.eventID)
			if err != nil {
				return err
			}
			lane := m.subject + " " + strconv.Itoa(n/1_000_000)
			if before, ok := last[lane]; ok && n != before+1 {
				t.Errorf("%s: %d after %d", lane, n, before)
			}
			last[lane] = n
			total++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := producers * endpoints * batch * most; total != want || c.cuts.Load() == 0 {
		t.Errorf("%d copies are stored, want %d, after %d cuts", total, want, c.cuts.Load())
	}
}

func TestAStartLooksThroughMoreBytesThanAConnectionMayHaveUnderWay(t *testing.T) {
	const endpoints = 300 // of 1 MiB, and 256 MiB may be under way
	in := newTestIngest(t, endpoints)
	body := `{"event_id":"abc","event_type":"message.received","x":"` + strings.Repeat("x", 1020<<10) + `"}`
	if _, err := in.one(t.Context(), "acme", []byte(body), nil); err != nil {
		t.Fatal(err)
	}
	x := newIdempotency(in.idempotency.js, in.idempotency.reads, 1_000_000, zerolog.Nop())
	if err := x.load(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	f := fingerprintOf("acme", keyOfEvent, "abc")
	if e := x.part(f).found[f]; e == nil || len(e.endpoints) != endpoints {
		t.Errorf("found %v", e)
	}
}
