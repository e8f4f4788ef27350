package staffetta

import "encoding/binary"

// BinaryReader reads records that are written with encoding/binary's Append functions and AppendText.
// Once something does not fit it has failed: it gives zeros, and nothing is left.
type BinaryReader struct {
	// Rest is what was not read yet.
	Rest   []byte
	Failed bool
}

// AppendText appends a text with its length, a uvarint, before it.
func AppendText[T string | []byte](dst []byte, text T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// Uvarint reads an unsigned number.
func (r *BinaryReader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.Rest = r.Rest[n:]
	return v
}

// Varint reads a signed number.
func (r *BinaryReader) Varint() int64 {
	v, n := binary.Varint(r.Rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.Rest = r.Rest[n:]
	return v
}

// Take reads n bytes; they are a part of what is read.
func (r *BinaryReader) Take(n uint64) []byte {
	if n > uint64(len(r.Rest)) {
		r.fail()
		return nil
	}
	taken := r.Rest[:n:n]
	r.Rest = r.Rest[n:]
	return taken
}

// Text reads what AppendText wrote, as Take does.
func (r *BinaryReader) Text() []byte { return r.Take(r.Uvarint()) }

func (r *BinaryReader) fail() { r.Failed, r.Rest = true, nil }
