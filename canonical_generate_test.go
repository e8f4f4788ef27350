package staffetta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// generated is a JSON value of which neither the formatting nor the order of array indices is said.
type generated struct {
	// literal is a number or a word, text a string's content; neither for an object or an array.
	literal string
	text    *string
	// keys are an object's, each with its value in values; an array has values alone.
	keys   []string
	values []generated
	object bool
}

// generator makes values and writes them in all the ways that JSON allows.
type generator struct{ *rand.Rand }

func (g generator) pick(choices ...string) string { return choices[g.IntN(len(choices))] }

func (g generator) object(depth int) generated {
	v := generated{object: true}
	for range g.IntN(7) {
		key := g.key()
		if slices.Contains(v.keys, key) {
			continue
		}
		v.keys = append(v.keys, key)
		if key == memberEventType || key == memberEventID {
			id := "id-" + strconv.Itoa(g.IntN(1000))
			v.values = append(v.values, generated{text: &id})
			continue
		}
		v.values = append(v.values, g.value(depth-1))
	}
	return v
}

func (g generator) value(depth int) generated {
	switch n := g.IntN(10); {
	case n < 2 && depth > 0:
		return g.object(depth)
	case n < 4 && depth > 0:
		v := generated{}
		for range g.IntN(4) {
			v.values = append(v.values, g.value(depth-1))
		}
		return v
	case n < 7:
		return generated{literal: g.number()}
	case n < 8:
		return generated{literal: g.pick("true", "false", "null")}
	default:
		text := g.content()
		return generated{text: &text}
	}
}

func (g generator) key() string {
	switch g.IntN(4) {
	case 0:
		return strconv.FormatUint(uint64(g.Uint32())>>g.IntN(32), 10)
	case 1:
		return g.pick("", "0", "00", "01", "1", "2", "10", "-1", "-0", "1.5", "1e3", "4294967293", "4294967294",
			"4294967295", "4294967296", "9007199254740993", "__proto__", "constructor", "toJSON", "event_type", "event_id")
	default:
		return g.content()
	}
}

// content is a string's content of up to 30 characters, most of them plain.
func (g generator) content() string {
	var b strings.Builder
	for range g.IntN(30) {
		switch g.IntN(12) {
		case 0:
			b.WriteRune(rune(g.IntN(0x20)))
		case 1:
			b.WriteString(g.pick(`"`, `\`, "/", "\x7f", "<", "&", "\u0080", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "\ud7ff", "\ue000", "\U0010ffff"))
		case 2:
			b.WriteRune(rune(0x80 + g.IntN(0xd800-0x80)))
		case 3:
			b.WriteRune(rune(0x10000 + g.IntN(0x10000)))
		default:
			b.WriteRune(rune(' ' + g.IntN(0x5f)))
		}
	}
	return b.String()
}

// number is a literal in any of JSON's forms; a few are out of range.
func (g generator) number() string {
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + g.IntN(10))
		}
		return string(b)
	}
	whole := strings.TrimLeft(digits(g.IntN(16)), "0")
	if whole == "" {
		whole = "0"
	}
	sign := g.pick("", "", "-")
	switch g.IntN(8) {
	case 0, 1:
		return sign + whole
	case 2, 3:
		return sign + whole + "." + strings.Repeat("0", g.IntN(8)) + digits(1+g.IntN(18)) + strings.Repeat("0", g.IntN(3))
	case 4:
		return sign + whole + g.pick("", "."+digits(1+g.IntN(20))) + g.pick("e", "E") + g.pick("", "+", "-") + g.pick("", "0") + digits(1+g.IntN(2))
	case 5:
		v := math.Float64frombits(g.Uint64())
		if math.IsNaN(v) || math.IsInf(v, 0) {
			v = 0.1
		}
		return strconv.FormatFloat(v, g.pick("e", "f", "g")[0], g.IntN(20)-1, 64)
	case 6:
		near := []float64{1e21, 1e-6, 1e-7, maxInteger, 1e15, 5e-324, math.MaxFloat64, 0.1, 123.456}[g.IntN(9)]
		near = math.Nextafter(near, float64(g.IntN(2))*2*math.MaxFloat64-math.MaxFloat64)
		return sign + strconv.FormatFloat(near, g.pick("e", "f", "g")[0], -1, 64)
	default:
		return sign + strconv.Itoa(maxInteger-5+g.IntN(8))
	}
}

// text writes v with white space and escapes wherever JSON allows them.
func (g generator) text(v generated) []byte {
	var b bytes.Buffer
	g.write(&b, v)
	return b.Bytes()
}

func (g generator) space(b *bytes.Buffer) {
	if g.IntN(4) == 0 {
		b.WriteString(g.pick(" ", "\t", "\r", "\n", " \n\t "))
	}
}

func (g generator) write(b *bytes.Buffer, v generated) {
	g.space(b)
	switch {
	case v.literal != "":
		b.WriteString(v.literal)
	case v.text != nil:
		g.quote(b, *v.text)
	default:
		brackets := "[]"
		if v.object {
			brackets = "{}"
		}
		b.WriteByte(brackets[0])
		g.space(b)
		for i, value := range v.values {
			if i > 0 {
				b.WriteByte(',')
			}
			if v.object {
				g.space(b)
				g.quote(b, v.keys[i])
				g.space(b)
				b.WriteByte(':')
			}
			g.write(b, value)
		}
		b.WriteByte(brackets[1])
	}
	g.space(b)
}

func (g generator) quote(b *bytes.Buffer, text string) {
	b.WriteByte('"')
	for _, r := range text {
		short := strings.IndexRune("\"\\/\b\f\n\r\t", r)
		switch {
		case short >= 0 && g.IntN(2) == 0:
			b.WriteByte('\\')
			b.WriteByte(`"\/bfnrt`[short])
		case r >= ' ' && r != '"' && r != '\\' && g.IntN(8) > 0:
			b.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(b, g.pick(`\u%04x`, `\u%04X`), unit)
			}
		}
	}
	b.WriteByte('"')
}

// spoil changes a few bytes; what comes out may be JSON still.
func (g generator) spoil(text []byte) []byte {
	text = bytes.Clone(text)
	for range 1 + g.IntN(3) {
		i := g.IntN(len(text))
		c := g.pick(`"`, `\`, "{", "}", "[", "]", ",", ":", "0", "1", "-", ".", "e", " ", "\n", "\x00", "\x80", "\xff", "u", "d")[0]
		switch g.IntN(3) {
		case 0:
			text[i] = c
		case 1:
			text = slices.Insert(text, i, c)
		default:
			if len(text) > 1 {
				text = slices.Delete(text, i, i+1)
			}
		}
	}
	return text
}

// keysInOrder are all keys of v and below, as JavaScript lists them.
func (v generated) keysInOrder() []string {
	var keys []string
	order := make([]int, len(v.values))
	for i := range order {
		order[i] = i
	}
	if v.object {
		rank := func(i int) uint64 {
			if n, err := strconv.ParseUint(v.keys[i], 10, 32); err == nil && n < math.MaxUint32 && strconv.FormatUint(n, 10) == v.keys[i] {
				return n
			}
			return math.MaxUint32
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(int64(rank(a)) - int64(rank(b))) })
	}
	for _, i := range order {
		if v.object {
			keys = append(keys, v.keys[i])
		}
		keys = append(keys, v.values[i].keysInOrder()...)
	}
	return keys
}

// keysOf are all keys of a JSON text in the order in which they stand there.
func keysOf(t testing.TB, text []byte) []string {
	t.Helper()
	var keys []string
	var inObject []bool
	isKey := false
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		token, err := decoder.Token()
		if err != nil {
			if len(inObject) > 0 {
				t.Fatalf("%s: %v", shown(text), err)
			}
			return keys
		}
		delim, _ := token.(json.Delim)
		switch {
		case delim == '{' || delim == '[':
			inObject = append(inObject, delim == '{')
		case delim != 0:
			inObject = inObject[:len(inObject)-1]
		case isKey:
			keys = append(keys, token.(string))
			isKey = false
			continue
		}
		isKey = len(inObject) > 0 && inObject[len(inObject)-1]
	}
}

func TestCanonicalizeDependsOnTheValueAlone(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(3, 3))}
	taken := 0
	for range 5000 {
		v := g.object(4)
		first, second := g.text(v), g.text(v)
		p, err := Canonicalize(first)
		q, otherErr := Canonicalize(second)
		if (err == nil) != (otherErr == nil) || !bytes.Equal(p.Body, q.Body) {
			t.Fatalf("the same value, another form:\n%s: %s %v\n%s: %s %v", shown(first), p.Body, err, shown(second), q.Body, otherErr)
		}
		if err != nil {
			continue
		}
		taken++
		if got, want := keysOf(t, p.Body), v.keysInOrder(); !slices.Equal(got, want) {
			t.Fatalf("%s: keys in the order %q, want %q", shown(first), got, want)
		}
		checkPayload(t, first, p)
	}
	if taken < 2500 {
		t.Errorf("only %d of 5000 values are accepted: the generator says too little", taken)
	}
}
