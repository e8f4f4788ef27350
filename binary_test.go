package staffetta_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestABinaryReaderGivesBackWhatWasAppended(t *testing.T) {
	b := binary.AppendUvarint(nil, math.MaxUint64)
	b = binary.AppendVarint(b, math.MinInt64)
	b = staffetta.AppendText(staffetta.AppendText(b, "text"), []byte{})
	r := staffetta.BinaryReader{Rest: b}
	if u, v, text, empty := r.Uvarint(), r.Varint(), string(r.Text()), r.Text(); u != math.MaxUint64 || v != math.MinInt64 || text != "text" || len(empty) != 0 {
		t.Errorf("read %d, %d, %q, %q", u, v, text, empty)
	}
	if r.Failed || len(r.Rest) != 0 {
		t.Errorf("the reader is at %+v", r)
	}
}

func TestABinaryReaderThatHasFailedGivesNothing(t *testing.T) {
	for name, b := range map[string][]byte{
		"a text that is cut off": staffetta.AppendText(nil, "text")[:3],
		"a length without end":   {0xff, 0xff},
		"nothing":                nil,
	} {
		r := staffetta.BinaryReader{Rest: b}
		if text := r.Text(); text != nil || !r.Failed || r.Rest != nil || r.Uvarint() != 0 || r.Varint() != 0 || r.Take(1) != nil {
			t.Errorf("%s: %q, and the reader is at %+v", name, text, r)
		}
	}
}
