package relay

import (
	"hash/maphash"
	"math/bits"
	"sync"

	"github.com/staffetta-relay/staffetta"
)

const (
	// A segment of the index ends at logBlockRecords records or so many blocks: a quiet relay stores
	// small blocks, and they share one entry.
	logSegmentBlocks = 64
	// logFilterBits and logFilterProbes make about one segment in a thousand match by chance, one in
	// five hundred where hundreds of workspaces meet in each.
	logFilterBits   = 16
	logFilterProbes = 7
	// logFilterWords bounds a segment's filter at 1.5 KiB. The attempts of one workspace at 100 endpoints
	// take half of that.
	logFilterWords = 192
)

// logSegment says of a run of blocks what is in it, well enough to pass over most of those that a
// query does not want. Closed segments never change.
type logSegment struct {
	first, last      uint64 // sequences of blocks
	earliest, latest int64  // of its records' times, in microseconds
	records, blocks  int
	filter           []uint64 // a Bloom filter of logKeys; nil matches everything
}

func (s *logSegment) has(key uint64) bool {
	if s.filter == nil {
		return true
	}
	n := uint64(len(s.filter)) * 64
	step := key>>32 | 1
	for i := range uint64(logFilterProbes) {
		hi, _ := bits.Mul64((key+i*step)*0x9e3779b97f4a7c15, n)
		if s.filter[hi/64]&(1<<(hi%64)) == 0 {
			return false
		}
	}
	return true
}

func (s *logSegment) set(key uint64) {
	n := uint64(len(s.filter)) * 64
	step := key>>32 | 1
	for i := range uint64(logFilterProbes) {
		hi, _ := bits.Mul64((key+i*step)*0x9e3779b97f4a7c15, n)
		s.filter[hi/64] |= 1 << (hi % 64)
	}
}

// The kinds of logKeys: what a query can ask for, always within a workspace. What nearly every record
// has in common, a delivery with 200, has no keys of its own.
const (
	logByWorkspace = iota + 1
	logByEndpoint
	logByEvent
	logByType
	logByOutcome         // but delivered
	logByStatus          // but 200: a status, a class of them as 1 to 9, or a kind of error from 1000 on
	logByEndpointOutcome // but delivered
)

// logKey is what a filter holds of a record.
func logKey(kind int, workspace, value uint64) uint64 {
	hi, lo := bits.Mul64(workspace^uint64(kind)*0x9e3779b97f4a7c15, value|1<<63)
	return (hi ^ lo ^ value) * 0xd6e8feb86659fd93
}

func logStatusValue(status uint64, kind staffetta.ErrorKind) uint64 {
	if kind != staffetta.ErrorNone {
		return 1000 + uint64(kind)
	}
	return status
}

// logKeys are the keys of the segment that grows, each once.
type logKeys struct {
	list  []uint64
	table [16 * logBlockRecords]uint64
}

func (k *logKeys) add(key uint64) {
	if key == 0 || len(k.list) >= len(k.table)/2 {
		k.list = append(k.list, key)
		return
	}
	at := key % uint64(len(k.table))
	for ; k.table[at] != 0; at = (at + 1) % uint64(len(k.table)) {
		if k.table[at] == key {
			return
		}
	}
	k.table[at] = key
	k.list = append(k.list, key)
}

func (k *logKeys) reset() {
	k.list = k.list[:0]
	clear(k.table[:])
}

// logRun is a run of segments, oldest first, of which the last one grows.
type logRun struct {
	closed []logSegment
	open   logSegment
	keys   logKeys
	reader logReader
}

// add takes a block in: those of one run come in the order of their sequences.
func (x *logRun) add(sequence uint64, block []byte) error {
	if err := x.reader.open(block); err != nil {
		return err
	}
	if x.open.blocks == 0 {
		x.open = logSegment{first: sequence}
	}
	for {
		var rec logRecord
		ok, err := x.reader.next(&rec)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if x.open.records == 0 || rec.at < x.open.earliest {
			x.open.earliest = rec.at
		}
		x.open.latest = max(x.open.latest, rec.at)
		x.open.records++
		x.addKeys(&rec)
	}
	x.open.last = sequence
	x.open.blocks++
	if x.open.records >= logBlockRecords || x.open.blocks >= logSegmentBlocks {
		x.close()
	}
	return nil
}

func (x *logRun) addKeys(rec *logRecord) {
	r, k := &x.reader, &x.keys
	w, endpoint, action := r.hash(rec.workspace), r.hash(rec.endpoint), uint64(rec.action())
	k.add(logKey(logByWorkspace, w, 0))
	k.add(logKey(logByEndpoint, w, endpoint))
	k.add(logKey(logByEvent, w, maphash.Bytes(logSeed, rec.eventID)))
	k.add(logKey(logByType, w, r.hash(rec.eventType)))
	if rec.action() != staffetta.Deliver {
		k.add(logKey(logByOutcome, w, action))
		k.add(logKey(logByEndpointOutcome, w, endpoint+action))
	}
	switch status := logStatusValue(rec.status, rec.error); {
	case status == 200:
	case rec.error == staffetta.ErrorNone:
		k.add(logKey(logByStatus, w, status/100))
		fallthrough
	default:
		k.add(logKey(logByStatus, w, status))
	}
}

// close makes the growing segment one that stays.
func (x *logRun) close() {
	if x.open.blocks == 0 {
		return
	}
	words := (len(x.keys.list)*logFilterBits + 63) / 64
	x.open.filter = make([]uint64, min(max(words, 1), logFilterWords))
	for _, key := range x.keys.list {
		x.open.set(key)
	}
	x.closed = append(x.closed, x.open)
	x.open = logSegment{}
	x.keys.reset()
}

// logIndex knows every block of the log: those stored since the start, and those before it, which
// are read once and in the background.
type logIndex struct {
	mu      sync.Mutex
	first   uint64 // sequence of the oldest block
	started uint64 // sequence of the newest block of before the start
	history logRun
	live    logRun
	done    bool // history is whole
}

// stored takes in a block of this process.
func (x *logIndex) stored(sequence uint64, block []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.live.add(sequence, block)
}

// found takes in a block of before the start.
func (x *logIndex) found(sequence uint64, block []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.history.add(sequence, block)
}

// complete ends the reading of history.
func (x *logIndex) complete() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.history.close()
	x.done = true
}

// evict forgets what lies before the oldest block that the stream still has.
func (x *logIndex) evict(first uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.first = max(x.first, first)
	for _, run := range []*logRun{&x.history, &x.live} {
		n := 0
		for n < len(run.closed) && run.closed[n].last < first {
			n++
		}
		if n > 0 { // a copy, so that the filters before it go
			run.closed = append([]logSegment(nil), run.closed[n:]...)
		}
	}
}

// segments gives all of the log, oldest first, in up to five parts. What has no filter yet is a
// segment that matches everything.
func (x *logIndex) segments() [][]logSegment {
	x.mu.Lock()
	defer x.mu.Unlock()
	var parts [][]logSegment
	add := func(run *logRun) (last uint64) {
		if n := len(run.closed); n > 0 {
			parts = append(parts, run.closed[:n:n])
			last = run.closed[n-1].last
		}
		if run.open.blocks > 0 {
			parts = append(parts, []logSegment{run.open})
			last = run.open.last
		}
		return last
	}
	read := add(&x.history)
	if from := max(read+1, x.first); !x.done && from <= x.started {
		parts = append(parts, []logSegment{{first: from, last: x.started, earliest: minMicros, latest: maxMicros}})
	}
	add(&x.live)
	return parts
}

// size is how many segments there are, and the bytes that they take.
func (x *logIndex) size() (segments, bytes int) {
	for _, part := range x.segments() {
		for i := range part {
			bytes += 96 + 8*len(part[i].filter)
		}
		segments += len(part)
	}
	return segments, bytes
}

// oldest is the sequence of the oldest block, as far as it is known.
func (x *logIndex) oldest() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.first
}

// whole reports whether the blocks of before the start are all indexed.
func (x *logIndex) whole() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.done
}
