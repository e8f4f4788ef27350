package receiver

import (
	"encoding/binary"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// A block is what the store keeps as one message: the requests of one moment, so that they share the
// cost of being stored. It is the format (1 byte), the ordinal of its first request (8, little endian:
// the requests of a source are numbered from 1), their count (4), and each request with its length (4)
// before it.
const (
	blockFormat = 1
	blockHead   = 13
)

// block gathers requests until they are stored. Its fields belong to the journal's lock until it is
// taken out to be stored; done is closed when that has ended, and err says why it could not be.
type block struct {
	data  []byte
	count int           // requests in it
	keys  []fingerprint // of those that must be told from repeats
	done  chan struct{}
	err   error
	late  chan struct{} // closed when the requests should not wait any longer
	timer *time.Timer   // does so
}

// newBlock makes an empty block; spare is memory that it may use.
func newBlock(spare []byte) *block {
	if cap(spare) < blockHead {
		spare = make([]byte, 8<<10)
	}
	b := &block{data: spare[:blockHead], done: make(chan struct{}), late: make(chan struct{})}
	b.timer = time.AfterFunc(storeTimeout, func() { close(b.late) })
	b.data[0] = blockFormat
	return b
}

// add appends a request.
func (b *block) add(r *Request) {
	at := len(b.data)
	b.data = append(b.data, 0, 0, 0, 0)
	b.data = appendRequest(b.data, r)
	binary.LittleEndian.PutUint32(b.data[at:], uint32(len(b.data)-at-4))
	b.count++
}

// number writes the head.
func (b *block) number(first uint64) {
	binary.LittleEndian.PutUint64(b.data[1:], first)
	binary.LittleEndian.PutUint32(b.data[9:], uint32(b.count))
}

// blockOrdinals reads a block's head: the ordinals of its first request and of the one behind its last.
func blockOrdinals(data []byte) (first, end uint64, err error) {
	if len(data) < blockHead || data[0] != blockFormat {
		return 0, 0, errStored
	}
	first = binary.LittleEndian.Uint64(data[1:])
	return first, first + uint64(binary.LittleEndian.Uint32(data[9:])), nil
}

// eachRequest calls f with every request of a block, as it is stored.
func eachRequest(data []byte, f func(stored []byte) error) error {
	if _, _, err := blockOrdinals(data); err != nil {
		return err
	}
	left := binary.LittleEndian.Uint32(data[9:])
	for data = data[blockHead:]; left > 0; left-- {
		if len(data) < 4 {
			return errStored
		}
		n := binary.LittleEndian.Uint32(data)
		if uint64(n) > uint64(len(data)-4) {
			return errStored
		}
		if err := f(data[4 : 4+n : 4+n]); err != nil {
			return err
		}
		data = data[4+n:]
	}
	if len(data) > 0 {
		return errStored
	}
	return nil
}

// identity is what is needed of a stored request before it is handed over.
type identity struct {
	eventID    []byte
	target     []byte
	replay     bool
	receivedAt time.Time
	body       []byte
}

// identify reads only that; the rest is passed over.
func identify(stored []byte) (id identity, err error) {
	if len(stored) == 0 {
		return id, errStored
	}
	rd := staffetta.BinaryReader{Rest: stored[1:]}
	id.replay = stored[0]&flagReplay != 0
	id.receivedAt = time.UnixMicro(int64(rd.Uvarint())).UTC()
	id.eventID, id.target = rd.Text(), rd.Text()
	for range 4 {
		rd.Text()
	}
	for n := rd.Uvarint(); n > 0 && !rd.Failed; n-- {
		rd.Text()
		rd.Text()
	}
	if id.body = rd.Text(); rd.Failed {
		return id, errStored
	}
	return id, nil
}
