package respondio

import (
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ID is an id as text, whether it came as a number or as text; empty where there is none.
type ID string

// Int64 is the id as a number, if it is one.
func (id ID) Int64() (int64, bool) {
	n, err := strconv.ParseInt(string(id), 10, 64)
	return n, err == nil
}

// Timestamp is a Unix time in seconds or, from 100,000,000,000 on, in milliseconds: respond.io has
// both. (As seconds that is the year 5138, as milliseconds 1973.) It is 0 where there is none.
type Timestamp int64

const firstMilliseconds = 100_000_000_000

// Time is the time in UTC, the zero time for 0.
func (t Timestamp) Time() time.Time {
	switch {
	case t == 0:
		return time.Time{}
	case t >= firstMilliseconds || t <= -firstMilliseconds:
		return time.UnixMilli(int64(t)).UTC()
	default:
		return time.Unix(int64(t), 0).UTC()
	}
}

// Seconds is a length of time in seconds.
type Seconds float64

// Duration is the length of time as Go has it, rounded to milliseconds and at most
// 292 years.
func (s Seconds) Duration() time.Duration {
	const longest = math.MaxInt64 / int64(time.Millisecond)
	ms := min(max(math.Round(float64(s)*1000), -float64(longest)), float64(longest))
	return time.Duration(ms) * time.Millisecond
}

// The readers below take the JSON of a value and say whether it can be read as what they read.

// readText takes text and numbers.
func readText(raw jsontext.Value) (string, bool) {
	switch raw.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, raw)
		return string(text), err == nil
	case '0':
		return string(raw), true
	default:
		return "", false
	}
}

// readNumber takes numbers and text that is one, and gives the text.
func readNumber(raw jsontext.Value) (string, bool) {
	text, ok := readText(raw)
	if !ok || raw.Kind() == '0' {
		return text, ok
	}
	number := jsontext.Value(text)
	return text, number.Kind() == '0' && number.IsValid()
}

func readFloat(raw jsontext.Value) (float64, bool) {
	text, ok := readNumber(raw)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil
}

// readInt takes whole numbers, of which those in another form, such as 1e3, may be 2^53 at most.
func readInt(raw jsontext.Value) (int64, bool) {
	text, ok := readNumber(raw)
	if !ok {
		return 0, false
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// readTimestamp takes whole numbers, seconds with a fraction, and RFC 3339.
func readTimestamp(raw jsontext.Value) (Timestamp, bool) {
	if n, ok := readInt(raw); ok {
		return Timestamp(n), true
	}
	var at time.Time
	if f, ok := readFloat(raw); ok {
		if math.Abs(f) >= firstMilliseconds {
			return 0, false
		}
		at = time.UnixMilli(int64(math.Round(f * 1000)))
	} else {
		text, _ := readText(raw)
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return 0, false
		}
		at = parsed.Truncate(time.Millisecond)
	}
	for _, t := range []Timestamp{Timestamp(at.UnixMilli()), Timestamp(at.Unix())} {
		if t.Time().Equal(at) {
			return t, true
		}
	}
	return 0, false // no number means that time
}

// appendID writes the number that an id usually is, else text.
func appendID(dst []byte, id ID) []byte {
	n, ok := id.Int64()
	if ok && n <= 1<<53 && n >= -1<<53 && strconv.FormatInt(n, 10) == string(id) {
		return append(dst, id...)
	}
	return appendText(dst, string(id))
}

// appendText writes text; what is not UTF-8 in it becomes U+FFFD.
func appendText(dst []byte, text string) []byte {
	dst, _ = jsontext.AppendQuote(dst, text)
	return dst
}
