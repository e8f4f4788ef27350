package relay

import (
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// errLogBlock says that a block of the attempt log is damaged or of a newer version.
var errLogBlock = errors.New("a block of the attempt log is damaged or of a newer version")

// logReader reads the records of a block, one after the other, without an allocation once it has
// grown: everything in a record lies in the block's bytes.
type logReader struct {
	left   int // records
	index  int // of the next one, from 0
	base   int64
	texts  [][]byte
	hashes []uint64 // of texts, 0 for one that was not asked for yet
	staffetta.BinaryReader
}

// logRecord is a record within its block; its texts are numbers.
type logRecord struct {
	index                                                  int
	flags                                                  byte
	at                                                     int64 // microseconds since 1970
	workspace, endpoint, eventType, detail, remote         uint64
	head, body                                             uint64
	eventID                                                []byte // the 16 bytes of a UUID, or the text
	sequence                                               uint64
	sinceStored                                            int64
	attempt, status                                        uint64
	error                                                  staffetta.ErrorKind
	wait, duration, firstByte, resolve, connect, handshake uint64 // microseconds
}

// open begins to read a block, which must stay as it is until the reader is done with it.
func (r *logReader) open(block []byte) error {
	*r = logReader{texts: r.texts[:0], hashes: r.hashes[:0], BinaryReader: staffetta.BinaryReader{Rest: block}}
	if len(block) == 0 || block[0] != logFormat {
		return errLogBlock
	}
	r.Rest = block[1:]
	count := r.Uvarint()
	r.base = r.Varint()
	texts := r.Uvarint()
	// A record has ten bytes at least, and a text one.
	if r.Failed || count > uint64(len(r.Rest)) || texts > uint64(len(r.Rest)) {
		return errLogBlock
	}
	r.left = int(count)
	for range texts {
		r.texts = append(r.texts, r.Take(r.Uvarint()))
		r.hashes = append(r.hashes, 0)
	}
	if r.Failed {
		return errLogBlock
	}
	return nil
}

// number reads the number of a text, which must be there.
func (r *logReader) number() uint64 {
	n := r.Uvarint()
	if n > uint64(len(r.texts)) {
		r.Failed = true
		return 0
	}
	return n
}

// text is the n-th text of the block.
func (r *logReader) text(n uint64) []byte {
	if n == 0 {
		return nil
	}
	return r.texts[n-1]
}

// hash is that of the n-th text; each is computed once a block.
func (r *logReader) hash(n uint64) uint64 {
	if n == 0 {
		return maphash.Bytes(logSeed, nil)
	}
	if r.hashes[n-1] == 0 {
		r.hashes[n-1] = maphash.Bytes(logSeed, r.texts[n-1])
	}
	return r.hashes[n-1]
}

// next reads the next record; it reports false at the end.
func (r *logReader) next(rec *logRecord) (bool, error) {
	if r.left == 0 {
		return false, nil
	}
	r.left--
	*rec = logRecord{index: r.index}
	r.index++
	if flags := r.Take(1); len(flags) == 1 {
		rec.flags = flags[0]
	}
	rec.at = r.base + r.Varint()
	rec.workspace, rec.endpoint, rec.eventType = r.number(), r.number(), r.number()
	if rec.flags&logUUID != 0 {
		rec.eventID = r.Take(16)
	} else {
		rec.eventID = r.Take(r.Uvarint())
	}
	rec.sequence, rec.sinceStored, rec.attempt = r.Uvarint(), r.Varint(), r.Uvarint()
	if rec.flags&logFailed != 0 {
		if kind := r.Take(1); len(kind) == 1 {
			rec.error = staffetta.ErrorKind(kind[0])
		}
		rec.detail = r.number()
	} else {
		rec.status = r.Uvarint()
	}
	if rec.action() == staffetta.Retry {
		rec.wait = r.Uvarint()
	}
	rec.duration, rec.firstByte = r.Uvarint(), r.Uvarint()
	if rec.flags&logDialled != 0 {
		rec.resolve, rec.connect, rec.handshake = r.Uvarint(), r.Uvarint(), r.Uvarint()
	}
	rec.remote, rec.head, rec.body = r.number(), r.number(), r.number()
	if r.Failed {
		return false, fmt.Errorf("record %d: %w", rec.index, errLogBlock)
	}
	return true, nil
}

func (rec *logRecord) action() staffetta.Action { return staffetta.Action(rec.flags & logAction) }

func (rec *logRecord) appendEventID(dst []byte) []byte {
	if rec.flags&logUUID != 0 {
		return appendUUID(dst, rec.eventID)
	}
	return append(dst, rec.eventID...)
}

// LogPosition is where a record stands in the log: it grows with time, and stays.
type LogPosition struct {
	// Sequence is the block's in its stream, Index the record's in the block, from 0.
	Sequence uint64
	Index    int
}

// Before reports whether p is the older one.
func (p LogPosition) Before(q LogPosition) bool {
	return p.Sequence < q.Sequence || p.Sequence == q.Sequence && p.Index < q.Index
}

// LoggedAttempt is an attempt as the log keeps it, to the microsecond.
type LoggedAttempt struct {
	Position LogPosition
	// AttemptRecord is what was recorded; its ResponseHead is the header without the status line
	// and without secrets: one "Name: value" a line.
	staffetta.AttemptRecord
}

// DecidedAt is when the attempt ended.
func (a *LoggedAttempt) DecidedAt() time.Time { return a.At.Add(a.Duration) }

// NextAttemptAt is when the next attempt was due; zero when there was to be none.
func (a *LoggedAttempt) NextAttemptAt() time.Time {
	if a.Verdict.Action != staffetta.Retry || a.Verdict.Stop {
		return time.Time{}
	}
	return a.DecidedAt().Add(a.Verdict.Wait)
}

// logged makes the record one that the caller may keep.
func (r *logReader) logged(sequence uint64, rec *logRecord) LoggedAttempt {
	text := func(n uint64) string { return string(r.text(n)) }
	micros := func(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
	at := time.UnixMicro(rec.at).UTC()
	a := LoggedAttempt{Position: LogPosition{sequence, rec.index}}
	a.AttemptRecord = staffetta.AttemptRecord{
		At: at, Workspace: text(rec.workspace), Endpoint: text(rec.endpoint),
		EventID: string(rec.appendEventID(nil)), EventType: text(rec.eventType),
		Sequence: rec.sequence, StoredAt: time.UnixMicro(rec.at - rec.sinceStored).UTC(), Attempt: int(rec.attempt),
		Outcome: staffetta.Outcome{Status: int(rec.status), Error: rec.error, Detail: text(rec.detail)},
		Verdict: staffetta.Verdict{
			Action: rec.action(), Wait: micros(rec.wait),
			Counts: rec.flags&logCounts != 0, Stop: rec.flags&logStop != 0,
		},
		Replay: rec.flags&logReplay != 0, Duration: micros(rec.duration),
		DNS: micros(rec.resolve), Connect: micros(rec.connect), TLS: micros(rec.handshake), FirstByte: micros(rec.firstByte),
		Remote:       text(rec.remote),
		ResponseHead: append([]byte(nil), r.text(rec.head)...), ResponseBody: append([]byte(nil), r.text(rec.body)...),
	}
	return a
}
