package bench

import (
	"testing"
	"time"
)

func TestARepeatIsHeldAgainstTheKillThatWasBeforeIt(t *testing.T) {
	c := crash{seen: make([]trail, 2)}
	at := func(ms int) int64 { return time.UnixMilli(int64(1000 + ms)).UnixNano() }
	kill1 := func(ms int) {
		c.kills = append(c.kills, kill{at: at(ms)})
		c.number.Add(1)
	}
	for n := range uint32(10) {
		c.witness(Mark{Track: 1, Sequence: n}, at(int(n)), true)
	}
	kill1(20)
	for _, n := range []uint32{7, 8, 9} { // in order, from 13 ms before the kill on
		c.witness(Mark{Track: 1, Sequence: n}, at(100), false)
	}
	c.witness(Mark{Track: 1, Sequence: 10}, at(101), true)
	if k := c.kills[0]; k.Repeats != 3 || k.EventsBack != 3 || k.MSBack != 13 || c.backwards.Load() != 0 {
		t.Errorf("%+v, %d out of order", k, c.backwards.Load())
	}
	kill1(200)
	kill1(300) // nothing came between them: what comes now was delivered 99 ms before the one that undid it
	for _, n := range []uint32{10, 9} {
		c.witness(Mark{Track: 1, Sequence: n}, at(400), false)
	}
	if k := c.kills[2]; k.Repeats != 2 || k.EventsBack != 2 || k.MSBack != 100 || c.backwards.Load() != 1 {
		t.Errorf("%+v, %d out of order", k, c.backwards.Load())
	}
}

func TestARepeatWithoutAKillIsAFault(t *testing.T) {
	c := crash{seen: make([]trail, 1)}
	c.witness(Mark{}, 1, true)
	c.witness(Mark{}, 2, false)
	if c.unasked.Load() != 1 {
		t.Error("nobody noticed")
	}
}
