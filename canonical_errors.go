package staffetta

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// checkStart refuses what begins with a byte order mark.
func checkStart(src []byte) error {
	for _, mark := range []string{"\xef\xbb\xbf", "\xfe\xff", "\xff\xfe"} {
		if bytes.HasPrefix(src, []byte(mark)) {
			err := invalid("byte_order_mark", "", "the payload begins with a byte order mark; send UTF-8 without one")
			err.Offset = 0
			return err
		}
	}
	return nil
}

// checkEnd refuses what follows the payload.
func (w *rewriter) checkEnd() error {
	if end := w.next(); end < len(w.src) {
		return w.malformed(end, "", "something follows the object; send one object alone")
	}
	return nil
}

// next is the offset of the next token, behind white space, a comma or a colon.
func (w *rewriter) next() int {
	offset := int(w.dec.InputOffset())
	between := whiteSpace
	if w.depth > 0 {
		between += ",:"
	}
	return len(w.src) - len(bytes.TrimLeft(w.src[offset:], between))
}

// at places an error at the token that was read last.
func (w *rewriter) at(err *InputError) error {
	err.Field = shortPointer(w.dec.StackPointer())
	err.Offset = w.tokenAt
	return err
}

func (w *rewriter) notAnObject() error {
	err := invalid("not_an_object", "", "the payload must be a JSON object, {…}")
	err.Offset = len(w.src) - len(bytes.TrimLeft(w.src, whiteSpace))
	return err
}

// syntaxError says in our words what the decoder found.
func (w *rewriter) syntaxError(err error) error {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		// The end of the input, where nothing has begun, is the only other one.
		return w.malformed(len(w.src), "", "the payload is empty")
	}
	offset, field := int(syntax.ByteOffset), shortPointer(syntax.JSONPointer)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return w.malformed(offset, field, "the payload ends before the object does")
	case errors.Is(err, jsontext.ErrDuplicateName):
		bad := invalid("duplicate_key", field, "the key "+printable(syntax.JSONPointer.LastToken())+
			" stands twice in one object, and receivers differ in which one they take; keep one")
		bad.Offset = offset
		return bad
	case isSurrogateEscape(w.src[offset:]):
		bad := invalid("lone_surrogate", field, `half of a surrogate pair (\ud800 to \udfff) stands alone in a string; send the whole character`)
		bad.Offset = offset
		return bad
	case errors.Is(err, jsontext.ErrNonStringName):
		return w.malformed(offset, field, "a key must be a string in double quotes")
	}
	return w.malformed(offset, field, "the payload is not JSON: "+syntaxHint(w.src[offset:]))
}

// malformed is the error for what is not JSON at an offset, or not UTF-8 up to there.
func (w *rewriter) malformed(offset int, field, detail string) error {
	code := "malformed_json"
	if bad := invalidUTF8(w.src); bad >= 0 && bad <= offset {
		code, offset, detail = "invalid_utf8", bad, "the payload is not valid UTF-8; encode it as UTF-8"
	}
	err := invalid(code, field, detail+" (byte "+strconv.Itoa(offset)+")")
	err.Offset = offset
	return err
}

// syntaxHint guesses from the byte at which reading stopped what a person should look for.
func syntaxHint(rest []byte) string {
	if len(rest) == 0 {
		return "it ends too early"
	}
	switch c := rest[0]; {
	case c == '\\':
		return `a backslash in a string begins none of \" \\ \/ \b \f \n \r \t \uXXXX`
	case c < ' ':
		return `a control character, such as a line break, stands bare in a string; write it as \n or \u00XX`
	case c == '\'':
		return "strings and keys take double quotes"
	case c == '/', c == '#':
		return "comments are not allowed"
	case c == '}', c == ']':
		return "a bracket closes what it did not open, or follows a comma"
	case c == ',', c == ':':
		return "a value or a key is missing before a comma or a colon"
	case c >= '0' && c <= '9':
		return "a comma or a colon is missing, or a number begins with 0"
	case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		return "the only words are true, false and null, in lower case"
	}
	return "a comma, a colon, a quote or a value is missing"
}

func isSurrogateEscape(text []byte) bool {
	if len(text) < len(`\ud800`) || text[0] != '\\' || text[1] != 'u' {
		return false
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return err == nil && utf16.IsSurrogate(rune(unit))
}

// invalidUTF8 is the offset of the first byte that is no part of a UTF-8 sequence, or -1.
func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// shortPointer shortens a pointer to the nearest value around that is short and printable: keys are
// the payload's, and an error travels in answers, logs and terminals.
func shortPointer(p jsontext.Pointer) string {
	const longest = 256
	text := string(p)
	if bad := strings.IndexFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }); bad >= 0 {
		text = text[:strings.LastIndexByte(text[:bad], '/')]
	}
	if len(text) > longest {
		text = text[:max(strings.LastIndexByte(text[:longest+1], '/'), 0)]
	}
	return text
}
