package relay

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const (
	// logBlockRecords and logBlockBytes seal a block: at either it becomes one message.
	logBlockRecords = 256
	logBlockBytes   = 64 << 10

	// logKept is how much of a response's head, and of its body, a record keeps.
	logKept = 1 << 10
	// logText bounds every other text of a record; none of the relay's own comes near.
	logText = 1 << 10

	// logBlockTexts is the most different texts that the records of a block can have.
	logBlockTexts = 8 * logBlockRecords
)

// logFormat is the first byte of a block. Behind it stand, as varints unless said otherwise: the
// number of records; the time that theirs count from, in microseconds since 1970; the number of
// texts, and each text with its length before it; the records, as logBlock.add writes them.
const logFormat = 1

// The bits of a record's first byte; the lower two are its action.
const (
	logAction  = 0b11
	logCounts  = 1 << 2
	logStop    = 1 << 3
	logReplay  = 1 << 4
	logUUID    = 1 << 5 // the event's id stands as the 16 bytes of a UUID
	logFailed  = 1 << 6 // no status: a kind of error and its detail stand in its place
	logDialled = 1 << 7 // the times of DNS, connect and TLS are there
)

// logBlock gathers records until they are stored. Every text stands in it once; a record refers to
// it by number. Nothing is allocated once its buffers have grown (TestRecordingAnAttemptAllocatesNothing).
type logBlock struct {
	count   int
	base    int64 // microseconds since 1970
	counted bool  // one of the records counts against the quota
	records []byte
	texts   []logSpan
	bytes   []byte // of all texts
	// table finds a text by its hash: a number from 1, 0 for a free place.
	table [2 * logBlockTexts]uint16
}

// logSpan is a text of a block; the heads of responses are known, for their secrets are struck out
// before they are written anywhere.
type logSpan struct {
	from, to uint32
	head     bool
}

var logSeed = maphash.MakeSeed()

func (b *logBlock) reset() {
	b.count, b.counted = 0, false
	b.records, b.texts, b.bytes = b.records[:0], b.texts[:0], b.bytes[:0]
	clear(b.table[:])
}

// full reports whether the block takes no further record.
func (b *logBlock) full() bool {
	return b.count >= logBlockRecords || len(b.records)+len(b.bytes) >= logBlockBytes
}

// text gives the number of a text, from 1; 0 is the empty one.
func (b *logBlock) text(s string, limit int) uint64 {
	if s = s[:min(len(s), limit)]; s == "" {
		return 0
	}
	at := maphash.String(logSeed, s) % uint64(len(b.table))
	for ; b.table[at] != 0; at = (at + 1) % uint64(len(b.table)) {
		if t := b.texts[b.table[at]-1]; !t.head && string(b.bytes[t.from:t.to]) == s {
			return uint64(b.table[at])
		}
	}
	b.bytes = append(b.bytes, s...)
	return b.added(at, len(s), false)
}

// lent is text for bytes that are only lent.
func (b *logBlock) lent(s []byte, head bool) uint64 {
	if s = s[:min(len(s), logKept)]; len(s) == 0 {
		return 0
	}
	at := maphash.Bytes(logSeed, s) % uint64(len(b.table))
	for ; b.table[at] != 0; at = (at + 1) % uint64(len(b.table)) {
		if t := b.texts[b.table[at]-1]; t.head == head && bytes.Equal(b.bytes[t.from:t.to], s) {
			return uint64(b.table[at])
		}
	}
	b.bytes = append(b.bytes, s...)
	return b.added(at, len(s), head)
}

func (b *logBlock) added(at uint64, length int, head bool) uint64 {
	b.texts = append(b.texts, logSpan{from: uint32(len(b.bytes) - length), to: uint32(len(b.bytes)), head: head})
	b.table[at] = uint16(len(b.texts))
	return uint64(len(b.texts))
}

// add appends a record.
func (b *logBlock) add(r *staffetta.AttemptRecord) {
	at := r.At.UnixMicro()
	if b.count == 0 {
		b.base = at
	}
	b.count++
	b.counted = b.counted || r.Verdict.Counts

	first := len(b.records)
	rec := append(b.records, byte(r.Verdict.Action)&logAction)
	rec[first] |= flag(r.Verdict.Counts, logCounts) | flag(r.Verdict.Stop, logStop) | flag(r.Replay, logReplay)
	rec = binary.AppendVarint(rec, at-b.base)
	rec = binary.AppendUvarint(rec, b.text(r.Workspace, logText))
	rec = binary.AppendUvarint(rec, b.text(r.Endpoint, logText))
	rec = binary.AppendUvarint(rec, b.text(r.EventType, logText))
	if id, ok := parseUUID(r.EventID); ok {
		rec = append(rec, id[:]...)
		rec[first] |= logUUID
	} else {
		id := r.EventID[:min(len(r.EventID), logText)]
		rec = binary.AppendUvarint(rec, uint64(len(id)))
		rec = append(rec, id...)
	}
	rec = binary.AppendUvarint(rec, r.Sequence)
	rec = binary.AppendVarint(rec, at-r.StoredAt.UnixMicro())
	rec = binary.AppendUvarint(rec, uint64(max(r.Attempt, 0)))
	if r.Outcome.Error == staffetta.ErrorNone {
		rec = binary.AppendUvarint(rec, uint64(max(r.Outcome.Status, 0)))
	} else {
		rec[first] |= logFailed
		rec = append(rec, byte(r.Outcome.Error))
		rec = binary.AppendUvarint(rec, b.text(r.Outcome.Detail, logText))
	}
	if r.Verdict.Action == staffetta.Retry {
		rec = appendMicros(rec, r.Verdict.Wait)
	}
	rec = appendMicros(rec, r.Duration)
	rec = appendMicros(rec, r.FirstByte)
	if r.DNS != 0 || r.Connect != 0 || r.TLS != 0 {
		rec[first] |= logDialled
		rec = appendMicros(appendMicros(appendMicros(rec, r.DNS), r.Connect), r.TLS)
	}
	rec = binary.AppendUvarint(rec, b.text(r.Remote, logText))
	rec = binary.AppendUvarint(rec, b.lent(r.ResponseHead, true))
	b.records = binary.AppendUvarint(rec, b.lent(r.ResponseBody, false))
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func appendMicros(dst []byte, d time.Duration) []byte {
	return binary.AppendUvarint(dst, uint64(max(d.Microseconds(), 0)))
}

// encode appends the block as it is stored, without the secrets of the responses' heads.
func (b *logBlock) encode(dst []byte) []byte {
	dst = append(dst, logFormat)
	dst = binary.AppendUvarint(dst, uint64(b.count))
	dst = binary.AppendVarint(dst, b.base)
	dst = binary.AppendUvarint(dst, uint64(len(b.texts)))
	var cleaned [logKept + 64]byte
	for _, s := range b.texts {
		text := b.bytes[s.from:s.to]
		if s.head {
			text = appendHeadWithoutSecrets(cleaned[:0], text)
		}
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	return append(dst, b.records...)
}

const uuidLength = 36

// parseUUID reads a UUID in its usual form: 36 characters, lower case.
func parseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != uuidLength {
		return id, false
	}
	n := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return id, false
			}
			continue
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return id, false
		}
		id[n/2] = id[n/2]<<4 | c
		n++
	}
	return id, true
}

// appendUUID appends the form that parseUUID reads.
func appendUUID(dst, id []byte) []byte {
	const digits = "0123456789abcdef"
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}
