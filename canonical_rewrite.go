package staffetta

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// span is a part of the rewritten body; the zero span is none.
type span struct{ start, end int }

func (s span) of(body []byte) []byte {
	if s.start == 0 {
		return nil
	}
	return body[s.start:s.end]
}

// members are where the values of the two members stand in the rewritten body.
type members struct{ eventType, eventID span }

// rewriter writes the canonical form of the tokens that its decoder reads. Until its object or
// array is closed every member and element ends in a comma, so that members are moved as they are.
type rewriter struct {
	src []byte
	dec *jsontext.Decoder
	// tokenAt is where in src the token that was read last begins.
	tokenAt int
	out     []byte
	scratch []byte
	// frames[:depth] are the open objects and arrays.
	frames  [MaxDepth]rewriteFrame
	depth   int
	members members
}

type rewriteFrame struct {
	object   bool
	wantsKey bool
	// body and member are where in out the first and the present member begin.
	body, member int
	// index is the present key as an array index, or -1.
	index int64
	// indexed are the members whose keys are array indices, as they came.
	indexed []indexedMember
}

type indexedMember struct {
	index int64
	span
}

// rewrite returns the canonical form of src. It takes time in proportion to the length of src, but
// for sorting keys that are array indices and moving their objects' members, once a level.
func rewrite(src []byte) ([]byte, members, error) {
	if err := checkStart(src); err != nil {
		return nil, members{}, err
	}
	w := rewriter{src: src, dec: jsontext.NewDecoder(bytes.NewBuffer(src)), out: make([]byte, 0, len(src))}
	if err := w.run(); err != nil {
		return nil, members{}, err
	}
	return w.out, w.members, nil
}

func (w *rewriter) run() error {
	switch byte(w.dec.PeekKind()) {
	case '{':
	case '[':
		return w.notAnObject()
	default:
		if err := w.dec.SkipValue(); err != nil {
			return w.syntaxError(err)
		}
		return w.notAnObject()
	}
	for {
		if err := w.token(); err != nil {
			return err
		}
		if w.depth == 0 {
			return w.checkEnd()
		}
	}
}

// token rewrites the next bracket, key, string, number or literal.
func (w *rewriter) token() error {
	kind := byte(w.dec.PeekKind())
	switch kind {
	case '{', '[', '}', ']':
		if _, err := w.dec.ReadToken(); err != nil {
			return w.syntaxError(err)
		}
		w.tokenAt = int(w.dec.InputOffset()) - 1
		if kind == '{' || kind == '[' {
			return w.open(kind)
		}
		w.close(kind)
		return nil
	}
	raw, err := w.dec.ReadValue()
	if err != nil {
		return w.syntaxError(err)
	}
	w.tokenAt = int(w.dec.InputOffset()) - len(raw)
	start := len(w.out)
	switch kind {
	case '"':
		w.scratch, _ = jsontext.AppendUnquote(w.scratch[:0], raw) // the decoder has seen that it is valid
		w.out, _ = jsontext.AppendQuote(w.out, w.scratch)
	case '0':
		var bad *InputError
		if w.out, bad = appendNumber(w.out, raw); bad != nil {
			return w.at(bad)
		}
	default:
		w.out = append(w.out, raw...)
	}
	f := &w.frames[w.depth-1]
	if f.object && f.wantsKey {
		w.endKey(f, start)
		return w.checkMember(f)
	}
	if err := w.keepMember(f, start); err != nil {
		return err
	}
	w.endValue()
	return nil
}

func (w *rewriter) open(bracket byte) error {
	if w.depth == MaxDepth {
		return w.at(invalid("too_deep", "", "objects and arrays nest deeper than "+strconv.Itoa(MaxDepth)+" levels; flatten the payload"))
	}
	w.out = append(w.out, bracket)
	f := &w.frames[w.depth]
	*f = rewriteFrame{
		object: bracket == '{', wantsKey: bracket == '{', index: -1,
		body: len(w.out), member: len(w.out), indexed: f.indexed[:0],
	}
	w.depth++
	return nil
}

func (w *rewriter) close(bracket byte) {
	f := &w.frames[w.depth-1]
	if len(f.indexed) > 0 {
		w.reorder(f)
	}
	if len(w.out) > f.body {
		w.out = w.out[:len(w.out)-1]
	}
	w.out = append(w.out, bracket)
	w.depth--
	if w.depth > 0 {
		w.endValue()
	}
}

// endKey goes on from the key that begins in out at start to its value.
func (w *rewriter) endKey(f *rewriteFrame, start int) {
	f.index = -1
	if index, ok := arrayIndex(w.out[start+1 : len(w.out)-1]); ok {
		f.index = int64(index)
	}
	w.out = append(w.out, ':')
	f.wantsKey = false
}

// endValue ends the present member or element.
func (w *rewriter) endValue() {
	w.out = append(w.out, ',')
	f := &w.frames[w.depth-1]
	if f.index >= 0 {
		f.indexed = append(f.indexed, indexedMember{f.index, span{f.member, len(w.out)}})
	}
	f.member, f.wantsKey = len(w.out), f.object
}

// reorder moves the members whose keys are array indices to the front, ascending.
func (w *rewriter) reorder(f *rewriteFrame) {
	end, last, inOrder := f.body, int64(-1), true
	for _, m := range f.indexed {
		inOrder = inOrder && m.start == end && m.index > last
		end, last = m.end, m.index
	}
	if inOrder {
		return
	}
	w.scratch = w.scratch[:0]
	rest := f.body
	for _, m := range f.indexed { // first what stands between them, to the end of scratch
		w.scratch = append(w.scratch, w.out[rest:m.start]...)
		rest = m.end
	}
	w.scratch = append(w.scratch, w.out[rest:]...)
	others := len(w.scratch)
	if w.depth == 1 {
		w.members.eventType.moveBehind(f.indexed)
		w.members.eventID.moveBehind(f.indexed)
	}
	slices.SortFunc(f.indexed, func(a, b indexedMember) int { return cmp.Compare(a.index, b.index) })
	for _, m := range f.indexed {
		w.scratch = append(w.scratch, w.out[m.start:m.end]...)
	}
	n := copy(w.out[f.body:], w.scratch[others:])
	copy(w.out[f.body+n:], w.scratch[:others])
}

// moveBehind moves s by those members behind it that reorder brings before it.
func (s *span) moveBehind(indexed []indexedMember) {
	start := s.start
	for _, m := range indexed {
		if start > 0 && m.start > start {
			s.start += m.end - m.start
			s.end += m.end - m.start
		}
	}
}

// present is the key of f's present member, whose value comes next or ends out.
func (w *rewriter) present(f *rewriteFrame) string {
	switch key := w.out[f.member:]; {
	case w.depth > 1:
	case bytes.HasPrefix(key, []byte(`"`+memberEventType+`":`)):
		return memberEventType
	case bytes.HasPrefix(key, []byte(`"`+memberEventID+`":`)):
		return memberEventID
	}
	return ""
}

// checkMember refuses an event_type or event_id that is not a string, before its value is read.
func (w *rewriter) checkMember(f *rewriteFrame) error {
	member := w.present(f)
	if member == "" {
		return nil
	}
	if kind := w.dec.PeekKind(); kind == '"' || kind == jsontext.KindInvalid {
		return nil // an invalid value is the next token's error
	}
	err := invalid("invalid_"+member, "/"+member, "must be a string")
	err.Offset = w.next()
	return err
}

// keepMember keeps where the string that begins in out at start stands, if it is one of the two.
func (w *rewriter) keepMember(f *rewriteFrame, start int) error {
	value := span{start + 1, len(w.out) - 1}
	switch w.present(f) {
	case memberEventType:
		w.members.eventType = value
	case memberEventID:
		w.members.eventID = value
		if !ValidEventID(value.of(w.out)) {
			return w.at(invalid("invalid_event_id", "", "must be 1 to "+strconv.Itoa(MaxEventID)+
				" visible ASCII characters other than the double quote and the backslash"))
		}
	}
	return nil
}

// appendNumber appends a number as it is canonical, or refuses it.
func appendNumber(dst, raw []byte) ([]byte, *InputError) {
	v, _ := strconv.ParseFloat(string(raw), 64) // the one error is the range, which leaves an infinity
	abs := math.Abs(v)
	plain := !bytes.ContainsAny(raw, ".eE")
	switch {
	case abs > maxInteger && (plain || abs < 1e21), abs == maxInteger && aboveMaxInteger(raw):
		return dst, invalid("integer_out_of_range", "", "an integer beyond 2^53 (9007199254740992) loses digits in many receivers; send it as a string")
	case math.IsInf(v, 0):
		return dst, invalid("number_out_of_range", "", "a number is too large for a 64-bit float; send it as a string")
	case v == 0:
		return append(dst, '0'), nil // -0 too
	}
	return appendFloat(dst, v), nil
}

// aboveMaxInteger reports whether a number that float64 rounds to 2^53 or -2^53 is beyond it. All
// such numbers have their first digit in the same place, so that their digits compare as text.
func aboveMaxInteger(raw []byte) bool {
	digits, _, _ := bytes.Cut(bytes.ToLower(raw), []byte("e"))
	digits = bytes.Trim(bytes.ReplaceAll(digits, []byte("."), nil), "-0")
	return string(digits) > strconv.Itoa(maxInteger)
}
