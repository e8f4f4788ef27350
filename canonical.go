package staffetta

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// MaxDepth is how deep objects and arrays may nest, the payload itself being the first level. It is
// the strictest default among common receivers, that of .NET's System.Text.Json.
const MaxDepth = 64

// whiteSpace is JSON's, all of it.
const whiteSpace = " \t\r\n"

// The two members that the relay reads.
const (
	memberEventType = "event_type"
	memberEventID   = "event_id"
)

// Payload is a canonical JSON object and the two members that the relay reads from it.
type Payload struct {
	// Body is a fixpoint of JavaScript's JSON.stringify(JSON.parse(body)).
	Body []byte
	// EventType is the part of Body between the quotes of the top-level member event_type, and nil
	// where there is none. What JSON escapes is still escaped; a valid type has nothing to escape.
	EventType []byte
	// EventID is the same for event_id. It is a ValidEventID, and nil where there is none.
	EventID []byte
}

// Canonicalize brings a JSON object into the one form that every attempt sends: the bytes of
// JavaScript's JSON.stringify(JSON.parse(src)). Where src has that form already, but for white space
// at its end, Body is src itself and nothing is allocated; otherwise Body is new, and up to four
// times as long as src (9e15 has 16 digits). Every error is an *InputError whose Field is a JSON pointer to what is at fault or,
// where such a pointer would be long or unprintable, to the nearest value around it.
//
// What two receivers could read differently is refused, not repaired: duplicate keys, invalid
// UTF-8, a byte order mark, lone surrogates, integers beyond 2^53, numbers beyond float64, nesting
// deeper than MaxDepth.
func Canonicalize(src []byte) (Payload, error) {
	text := bytes.TrimRight(src, whiteSpace)
	s := scanner{src: text}
	if s.scan() {
		return Payload{Body: text, EventType: s.eventType, EventID: s.eventID}, nil
	}
	body, members, err := rewrite(src)
	if err != nil {
		return Payload{}, err
	}
	if bytes.Equal(body, text) {
		body = text // the scanner had no room for it
	}
	return Payload{Body: body, EventType: members.eventType.of(body), EventID: members.eventID.of(body)}, nil
}

// AppendEventID appends Body with id as its last member event_id. The caller has seen that Body has
// no event_id and that id is a ValidEventID.
func (p Payload) AppendEventID(dst []byte, id string) []byte {
	dst = append(dst, p.Body[:len(p.Body)-1]...)
	if len(p.Body) > len("{}") {
		dst = append(dst, ',')
	}
	dst = append(dst, `"`+memberEventID+`":"`...)
	dst = append(dst, id...)
	return append(dst, `"}`...)
}

// maxScanKeys bounds the keys of all open objects that the scanner compares one by one.
const maxScanKeys = 256

// maxInteger is the largest magnitude up to which every integer has a float64 of its own.
const maxInteger = 1 << 53

// scanner recognises the canonical form in one pass, without an allocation, and says no to all else
// and to what it has no room for; rewrite then decides. BenchmarkCanonicalize pays for it.
type scanner struct {
	src []byte
	// frames[:depth] are the open objects and arrays.
	frames [MaxDepth]scanFrame
	depth  int
	// keys[:used] are the keys of the open objects but for array indices, each a fingerprint in
	// the upper half and the offset in src in the lower.
	keys [maxScanKeys]uint64
	used int
	// member is the one of the two members whose value comes next, or "".
	member             string
	eventType, eventID []byte
}

type scanFrame struct {
	// nextIndex is the least array index that may still come as a key: indices lead, ascending.
	nextIndex uint64
	// firstKey is where in keys this object's begin.
	firstKey int
	object   bool
}

// scan reports whether src is canonical.
func (s *scanner) scan() bool {
	src, i := s.src, 0
	if len(src) == 0 || src[0] != '{' || len(src) > math.MaxInt32 {
		return false
	}
	for {
		// A value begins at i, unless what came before it failed and made i negative.
		if uint(i) >= uint(len(src)) || s.member != "" && src[i] != '"' {
			return false
		}
		switch c := src[i]; c {
		case '"':
			i = s.scanStringValue(i + 1)
		case '{', '[':
			if i++; !s.open(c == '{') || i == len(src) {
				return false
			}
			if c == '{' && src[i] != '}' {
				i = s.scanKey(i)
				continue
			}
			if c == '[' && src[i] != ']' {
				continue
			}
		case 't':
			i = scanLiteral(src, i, "true")
		case 'f':
			i = scanLiteral(src, i, "false")
		case 'n':
			i = scanLiteral(src, i, "null")
		default:
			i = scanNumber(src, i)
		}
		if i < 0 {
			return false
		}
		for i < len(src) && (src[i] == '}' || src[i] == ']') {
			if !s.close(src[i] == '}') {
				return false
			}
			i++
			if s.depth == 0 {
				return i == len(src)
			}
		}
		if i >= len(src) || src[i] != ',' {
			return false
		}
		i++
		if s.frames[s.depth-1].object {
			i = s.scanKey(i)
		}
	}
}

func (s *scanner) open(object bool) bool {
	if s.depth == MaxDepth {
		return false
	}
	s.frames[s.depth] = scanFrame{firstKey: s.used, object: object}
	s.depth++
	return true
}

func (s *scanner) close(object bool) bool {
	f := &s.frames[s.depth-1]
	s.used = f.firstKey
	s.depth--
	return f.object == object
}

// scanKey scans a key and its colon and returns where its value begins, or -1.
func (s *scanner) scanKey(i int) int {
	src := s.src
	if i >= len(src) || src[i] != '"' {
		return -1
	}
	start := i + 1
	i = scanString(src, start)
	if i < 0 || i >= len(src) || src[i] != ':' {
		return -1
	}
	key, f := src[start:i-1], &s.frames[s.depth-1]
	if index, ok := arrayIndex(key); ok {
		if index < f.nextIndex {
			return -1
		}
		f.nextIndex = index + 1
		return i + 1
	}
	f.nextIndex = math.MaxUint64
	if !s.addKey(f, start, i-1) {
		return -1
	}
	if s.depth == 1 {
		switch string(key) {
		case memberEventType:
			s.member = memberEventType
		case memberEventID:
			s.member = memberEventID
		}
	}
	return i + 1
}

// addKey reports whether the key at src[start:end] is new to its object and there is room for it.
func (s *scanner) addKey(f *scanFrame, start, end int) bool {
	if s.used == maxScanKeys {
		return false
	}
	// The last eight bytes and the length tell nearly all keys of one object apart.
	var tail uint64
	if end >= 8 {
		tail = binary.LittleEndian.Uint64(s.src[end-8:])
		if n := end - start; n < 8 {
			tail >>= 8 * (8 - n)
		}
	} else {
		for i := end - 1; i >= start; i-- {
			tail = tail<<8 | uint64(s.src[i])
		}
	}
	const odd = 0x9e3779b97f4a7c15
	print32 := (tail*odd)>>32 + uint64(end-start)
	for _, k := range s.keys[f.firstKey:s.used] {
		// With its closing quote a key is no prefix of another.
		if uint32(k>>32) == uint32(print32) && bytes.HasPrefix(s.src[uint32(k):], s.src[start:end+1]) {
			return false
		}
	}
	s.keys[s.used] = print32<<32 | uint64(start)
	s.used++
	return true
}

// scanStringValue scans the rest of a string and returns where it ends, or -1; it keeps the value
// where it is one of the two members.
func (s *scanner) scanStringValue(i int) int {
	end := scanString(s.src, i)
	if s.member == "" || end < 0 {
		return end
	}
	value := s.src[i : end-1]
	if s.member == memberEventType {
		s.eventType = value
	} else if s.eventID = value; !ValidEventID(value) {
		return -1
	}
	s.member = ""
	return end
}

// scanString scans the rest of a string from behind its opening quote and returns where it ends, or
// -1 where it is not valid or not written as JSON.stringify does. It looks at eight bytes at a time
// (BenchmarkCanonicalize).
func scanString(src []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	start, seen := i, uint64(0)
	for {
		for i+8 <= len(src) {
			w := binary.LittleEndian.Uint64(src[i:])
			quote, slash := w^ones*'"', w^ones*'\\'
			// The lowest high bit marks the first quote, backslash or control character.
			stop := ((w-ones*' ')&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs
			if stop != 0 {
				n := bits.TrailingZeros64(stop) &^ 7
				seen |= w & (1<<n - 1)
				i += n / 8
				break
			}
			seen |= w
			i += 8
		}
		for i < len(src) && src[i] >= ' ' && src[i] != '"' && src[i] != '\\' {
			seen |= uint64(src[i])
			i++
		}
		switch {
		case i == len(src) || src[i] < ' ':
			return -1
		case src[i] == '"':
			if seen&highs != 0 && !utf8.Valid(src[start:i]) {
				return -1
			}
			return i + 1
		}
		if i = scanEscape(src, i+1); i < 0 {
			return -1
		}
	}
}

// scanEscape scans what follows a backslash and returns where it ends, or -1 where JSON.stringify
// would write the character otherwise.
func scanEscape(src []byte, i int) int {
	if i == len(src) {
		return -1
	}
	switch src[i] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if len(src)-i < 5 || string(src[i+1:i+4]) != "000" && string(src[i+1:i+4]) != "001" {
			return -1
		}
		switch c := src[i+4]; {
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
			if src[i+3] == '1' || c <= '7' || c == 'b' || c >= 'e' {
				return i + 5
			}
		}
	}
	return -1
}

func scanLiteral(src []byte, i int, literal string) int {
	if len(src)-i < len(literal) || string(src[i:i+len(literal)]) != literal {
		return -1
	}
	return i + len(literal)
}

// scanNumber returns where a number ends, or -1 where it is not one or is not written as
// Number::toString does.
func scanNumber(src []byte, i int) int {
	start, value := i, uint64(0)
	if src[i] == '-' {
		i++
	}
	first := i
	for i < len(src) && src[i]-'0' <= 9 {
		value = value*10 + uint64(src[i]-'0')
		i++
	}
	n := i - first
	if n == 0 || n > 16 || n > 1 && src[first] == '0' {
		return -1
	}
	if i < len(src) && (src[i] == '.' || src[i] == 'e') {
		return scanFloat(src, start, i)
	}
	if value > maxInteger || value == 0 && first > start {
		return -1
	}
	return i
}

// scanFloat is scanNumber for a number with a fraction or an exponent, which begins at i.
func scanFloat(src []byte, start, i int) int {
	const longest = len("-0.0000012345678901234567")
	end := i
	for end < len(src) && end-start <= longest && (src[end]-'0' <= 9 || src[end] == '.' ||
		src[end] == 'e' || src[end] == '-' || src[end] == '+') {
		end++
	}
	number := src[start:end]
	if len(number) > longest {
		return -1
	}
	if shortDecimal(number, i-start) {
		return end
	}
	var buf [32]byte
	v, err := strconv.ParseFloat(string(number), 64)
	if err != nil || !bytes.Equal(appendFloat(buf[:0], v), number) {
		return -1
	}
	return end
}

// shortDecimal reports whether a number, whose point or exponent is at i, is a plain decimal of at
// most 15 digits, no less than 0.000001 and without trailing zeros: no two such decimals share a
// float64, so each is its own shortest form.
func shortDecimal(number []byte, i int) bool {
	if len(number) > 16 || number[0] == '-' || number[i] != '.' || number[len(number)-1] == '0' {
		return false
	}
	for _, c := range number[i+1:] {
		if c-'0' > 9 {
			return false
		}
	}
	return i+1 < len(number) && (number[0] != '0' || !bytes.HasPrefix(number[i+1:], []byte("000000")))
}

// appendFloat appends a number, other than -0, as ECMAScript's Number::toString prints it.
func appendFloat(dst []byte, v float64) []byte {
	abs := math.Abs(v)
	if abs == 0 || abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, v, 'e', -1, 64)
	if n := len(dst); string(dst[n-4:n-1]) == "e-0" { // strconv writes two digits
		dst = append(dst[:n-2], dst[n-1])
	}
	return dst
}

// arrayIndex reads a key that JavaScript takes for an array index: 0 to 4294967294 as it prints them.
func arrayIndex(key []byte) (uint64, bool) {
	if len(key) == 0 || len(key) > len("4294967294") || key[0] == '0' && len(key) > 1 {
		return 0, false
	}
	index := uint64(0)
	for _, c := range key {
		if c-'0' > 9 {
			return 0, false
		}
		index = index*10 + uint64(c-'0')
	}
	return index, index < math.MaxUint32
}
