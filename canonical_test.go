package staffetta

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// accepted are inputs and their canonical form.
var accepted = []struct{ in, want string }{
	{`{}`, `{}`},
	{" \t\r\n{ \n } \n", `{}`},
	{`{"a":{},"b":[],"c":[[]],"d":[{}]}`, `{"a":{},"b":[],"c":[[]],"d":[{}]}`},
	{`{ "a" : [ 1 , true , false , null , "x" ] }`, `{"a":[1,true,false,null,"x"]}`},
	{`{"b":1,"a":2}`, `{"b":1,"a":2}`},
	{`{"":0}`, `{"":0}`},
	{`{"__proto__":{"a":1},"constructor":2,"toString":3,"toJSON":4,"length":5}`, `{"__proto__":{"a":1},"constructor":2,"toString":3,"toJSON":4,"length":5}`},
	{`{"b":1,"__proto__":null,"a":2,"7":3}`, `{"7":3,"b":1,"__proto__":null,"a":2}`},

	// Array indices lead, ascending; what only looks like one stays.
	{`{"b":1,"10":2,"a":3,"9":4}`, `{"9":4,"10":2,"b":1,"a":3}`},
	{`{"1":1,"0":0,"2":2}`, `{"0":0,"1":1,"2":2}`},
	{`{"0":0,"1":1,"10":2,"a":3}`, `{"0":0,"1":1,"10":2,"a":3}`},
	{`{"a":[{"x":{"z":0,"2":1,"1":2}}]}`, `{"a":[{"x":{"1":2,"2":1,"z":0}}]}`},
	{`{"4294967296":1,"4294967295":2,"4294967294":3,"4294967293":4}`, `{"4294967293":4,"4294967294":3,"4294967296":1,"4294967295":2}`},
	{`{"01":1,"-1":2,"1.0":3,"1e0":4," 1":5,"00":6,"+1":7,"１":8,"1":9}`, `{"1":9,"01":1,"-1":2,"1.0":3,"1e0":4," 1":5,"00":6,"+1":7,"１":8}`},
	{`{"a":1,"\u0031":2}`, `{"1":2,"a":1}`},
	{`{"event_type":"t","2":[1],"event_id":"i","1":{}}`, `{"1":{},"2":[1],"event_type":"t","event_id":"i"}`},

	// Strings as JSON.stringify escapes them.
	{`{"a":"\"\\\/\b\f\n\r\t"}`, `{"a":"\"\\/\b\f\n\r\t"}`},
	{`{"a":"\u0022\u005C\u002f\u0008\u000C\u000a\u000D\u0009"}`, `{"a":"\"\\/\b\f\n\r\t"}`},
	{`{"a":"\u0000\u0001\u001F\u001f\u000B\u000e\u0020\u007f"}`, `{"a":"\u0000\u0001\u001f\u001f\u000b\u000e ` + "\x7f" + `"}`},
	{`{"a":"\u003c\u003e\u0026\u0027<>&'"}`, `{"a":"<>&'<>&'"}`},
	{`{"a":"\u2028\u2029` + "\u2028\u2029" + `"}`, `{"a":"` + "\u2028\u2029\u2028\u2029" + `"}`},
	{`{"a":"\u00e9é\u20AC€\uD83D\uDE0a😊\uFEFF\uFFFD"}`, `{"a":"éé€€😊😊` + "\ufeff\ufffd" + `"}`},
	{"{\"a\":\"\x7f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\"}", "{\"a\":\"\x7f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\"}"},
	{`{"\u0061\n\/":"long enough for eight bytes at once \u0041 and on"}`, `{"a\n/":"long enough for eight bytes at once A and on"}`},

	// Numbers as Number::toString prints them.
	{`{"a":[0,-0,0.0,-0.0,0e9,-0E-9,1e-400,-1e-400]}`, `{"a":[0,0,0,0,0,0,0,0]}`},
	{`{"a":[1,-1,1.0,1.50,10e-1,1E3,1e+3,-1.5e3,123e2]}`, `{"a":[1,-1,1,1.5,1,1000,1000,-1500,12300]}`},
	{`{"a":[1e21,1E+21,-1e21,123456789e20,1.7976931348623157e308]}`, `{"a":[1e+21,1e+21,-1e+21,1.23456789e+28,1.7976931348623157e+308]}`},
	{`{"a":[1000000000000000000000.0,1000000000000000000000e0]}`, `{"a":[1e+21,1e+21]}`},
	{`{"a":[0.000001,0.0000010,0.0000001,1e-6,1e-7,1.5E-7,-1e-7,0.00000123]}`, `{"a":[0.000001,0.000001,1e-7,0.000001,1e-7,1.5e-7,-1e-7,0.00000123]}`},
	{`{"a":[5e-324,2.2250738585072014e-308,4.9406564584124654e-324]}`, `{"a":[5e-324,2.2250738585072014e-308,5e-324]}`},
	{`{"a":[0.1,0.30000000000000004,3.141592653589793,0.1234567890123456789,100.10,3.00]}`, `{"a":[0.1,0.30000000000000004,3.141592653589793,0.12345678901234568,100.1,3]}`},
	{`{"a":[123456789012345,1234567890123456,9007199254740991,9007199254740992,-9007199254740992]}`, `{"a":[123456789012345,1234567890123456,9007199254740991,9007199254740992,-9007199254740992]}`},
	{`{"a":[9007199254740992.0,9.007199254740992e15,9007199254740991.9,0.9e16]}`, `{"a":[9007199254740992,9007199254740992,9007199254740992,9000000000000000]}`},
	{`{"a":[1784604785000000,99.99999999999999,999999999999.999,-0.000001]}`, `{"a":[1784604785000000,99.99999999999999,999999999999.999,-0.000001]}`},

	// The two members.
	{`{"event_type":"message.received","event_id":"e-1"}`, `{"event_type":"message.received","event_id":"e-1"}`},
	{`{"event_id":"\u0065-1","event_typ\u0065":"a\/b"}`, `{"event_id":"e-1","event_type":"a/b"}`},
	{`{"a":{"event_type":1,"event_id":null},"b":[{"event_type":[]}]}`, `{"a":{"event_type":1,"event_id":null},"b":[{"event_type":[]}]}`},
	{`{"event_type":""}`, `{"event_type":""}`},
	{`{"event_type":"a\"b\\\n€"}`, `{"event_type":"a\"b\\\n€"}`},
	{`{"event_types":1,"event_ids":2,"Event_type":3,"xevent_id":4}`, `{"event_types":1,"event_ids":2,"Event_type":3,"xevent_id":4}`},
}

// refused are inputs, the code of the error and its place.
var refused = []struct {
	in, code, field string
	offset          int
}{
	{``, "malformed_json", "", 0},
	{" \n", "malformed_json", "", 2},
	{`{`, "malformed_json", "", 1},
	{`{"a"`, "malformed_json", "/a", 4},
	{`{"a":`, "malformed_json", "/a", 5},
	{`{"a":1`, "malformed_json", "", 6},
	{`{"a":1,`, "malformed_json", "", 7},
	{`{"a":1,}`, "malformed_json", "", 6},
	{`{"a":[1,]}`, "malformed_json", "/a", 7},
	{`{,}`, "malformed_json", "", 1},
	{`{"a":}`, "malformed_json", "/a", 5},
	{`{"a" 1}`, "malformed_json", "/a", 5},
	{`{"a":1 "b":2}`, "malformed_json", "", 7},
	{`{"a":1]`, "malformed_json", "", 6},
	{`{"a":[1}`, "malformed_json", "/a", 7},
	{`{a:1}`, "malformed_json", "", 1},
	{`{'a':1}`, "malformed_json", "", 1},
	{`{1:1}`, "malformed_json", "", 1},
	{`{"a":01}`, "malformed_json", "", 6},
	{`{"a":+1}`, "malformed_json", "/a", 5},
	{`{"a":.5}`, "malformed_json", "/a", 5},
	{`{"a":1.}`, "malformed_json", "/a", 7},
	{`{"a":1e}`, "malformed_json", "/a", 7},
	{`{"a":0x1}`, "malformed_json", "", 6},
	{`{"a":-}`, "malformed_json", "/a", 6},
	{`{"a":1_0}`, "malformed_json", "", 6},
	{`{"a":NaN}`, "malformed_json", "/a", 5},
	{`{"a":Infinity}`, "malformed_json", "/a", 5},
	{`{"a":True}`, "malformed_json", "/a", 5},
	{`{"a":nul}`, "malformed_json", "/a", 8},
	{`{"a":"\x"}`, "malformed_json", "/a", 6},
	{`{"a":"\u12g4"}`, "malformed_json", "/a", 6},
	{`{"a":"`, "malformed_json", "/a", 6},
	{`{"a":"\`, "malformed_json", "/a", 6},
	{`{"a":"\ud83d`, "malformed_json", "/a", 6},
	{"{\"a\":\"\n\"}", "malformed_json", "/a", 6},
	{"{\"a\":\"\x00\"}", "malformed_json", "/a", 6},
	{"{\"a\":1\v}", "malformed_json", "", 6},
	{"{\"a\":\u00a01}", "malformed_json", "/a", 5},
	{`{} {}`, "malformed_json", "", 3},
	{`{},`, "malformed_json", "", 2},
	{`{}}`, "malformed_json", "", 2},
	{"{}\x00", "malformed_json", "", 2},
	{`/**/{}`, "malformed_json", "", 0},
	{`tru`, "malformed_json", "", 3},

	{`[]`, "not_an_object", "", 0},
	{` [{}]`, "not_an_object", "", 1},
	{`"{}"`, "not_an_object", "", 0},
	{`1`, "not_an_object", "", 0},
	{` null `, "not_an_object", "", 1},
	{strings.Repeat("[", 1<<20), "not_an_object", "", 0},

	{`{"a":1,"a":1}`, "duplicate_key", "/a", 7},
	{`{"a":1,"\u0061":1}`, "duplicate_key", "/a", 7},
	{`{"1":1,"2":1,"1":1}`, "duplicate_key", "/1", 13},
	{`{"1":1,"1":1}`, "duplicate_key", "/1", 7},
	{`{"x":[{"é/~":1, "\u00e9/~":2}]}`, "duplicate_key", "/x/0/é~1~0", 17},
	{`{"event_id":"a","event_id":"b"}`, "duplicate_key", "/event_id", 16},
	{"{\"\\u001b[2J\":{\"a\":{\"b\":1,\"b\":2}}}", "duplicate_key", "", 25},

	{"{\"a\":\"\xff\"}", "invalid_utf8", "/a", 6},
	{"{\"a\":\"\xc0\xaf\"}", "invalid_utf8", "/a", 6},
	{"{\"a\":\"\xed\xa0\x80\"}", "invalid_utf8", "/a", 6},
	{"{\"a\":\"\xf4\x90\x80\x80\"}", "invalid_utf8", "/a", 6},
	{"{\"a\":\"long enough for a word \xe2\x82\"}", "invalid_utf8", "/a", 29},
	{"{\"a\":\"\xe2\x82", "invalid_utf8", "/a", 6},
	{"{\"a\xff\":1}", "invalid_utf8", "", 3},
	{"{\"a\":\xff}", "invalid_utf8", "/a", 5},
	{"\xff{}", "invalid_utf8", "", 0},
	{"{}\xff", "invalid_utf8", "", 2},

	{"\ufeff{}", "byte_order_mark", "", 0},
	{"\xff\xfe{\x00}\x00", "byte_order_mark", "", 0},
	{"\xfe\xff\x00{\x00}", "byte_order_mark", "", 0},

	{`{"a":9007199254740993}`, "integer_out_of_range", "/a", 5},
	{`{"a":-9007199254740993}`, "integer_out_of_range", "/a", 5},
	{`{"a":[0, 9007199254740994 ]}`, "integer_out_of_range", "/a/1", 9},
	{`{"a":1e16}`, "integer_out_of_range", "/a", 5},
	{`{"a":10000000000000000}`, "integer_out_of_range", "/a", 5},
	{`{"a":18446744073709551616}`, "integer_out_of_range", "/a", 5},
	{`{"a":9007199254740993.0}`, "integer_out_of_range", "/a", 5},
	{`{"a":9.007199254740993e15}`, "integer_out_of_range", "/a", 5},
	{`{"a":00.0}`, "malformed_json", "", 6},
	{`{"a":-0.9007199254740992500E16}`, "integer_out_of_range", "/a", 5},
	{`{"a":999999999999999900000.5}`, "integer_out_of_range", "/a", 5},
	{`{"a":1000000000000000000000}`, "integer_out_of_range", "/a", 5},
	{`{"a":1` + strings.Repeat("0", 400) + `}`, "integer_out_of_range", "/a", 5},
	{`{"a":1e400}`, "number_out_of_range", "/a", 5},
	{`{"a":-1.8e308}`, "number_out_of_range", "/a", 5},

	{`{"a":"\ud800"}`, "lone_surrogate", "/a", 6},
	{`{"a":"\uDFFF"}`, "lone_surrogate", "/a", 6},
	{`{"a":"x\ud83d\ud83d\ude0a"}`, "lone_surrogate", "/a", 7},
	{`{"a":"\ude0a\ud83d"}`, "lone_surrogate", "/a", 6},
	{`{"a":"\ud83dx"}`, "lone_surrogate", "/a", 6},
	{`{"a":"\ud83d\n long enough"}`, "lone_surrogate", "/a", 6},
	{`{"\ud800":1}`, "lone_surrogate", "", 2},

	{nest(MaxDepth + 1), "too_deep", strings.Repeat("/a", MaxDepth), 5 * MaxDepth},
	{`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`, "too_deep", "/a" + strings.Repeat("/0", MaxDepth-1), 4 + MaxDepth},
	{strings.Repeat(`{"1":`, 1<<20/5), "too_deep", strings.Repeat("/1", MaxDepth), 5 * MaxDepth},
	{`{"a":` + strings.Repeat("[", 1<<20), "too_deep", "/a" + strings.Repeat("/0", MaxDepth-1), 4 + MaxDepth},

	{`{"event_type":1}`, "invalid_event_type", "/event_type", 14},
	{`{"event_type": null }`, "invalid_event_type", "/event_type", 15},
	{`{"event_typ\u0065":["x"]}`, "invalid_event_type", "/event_type", 19},
	{`{"event_type":{"event_type":"x"}}`, "invalid_event_type", "/event_type", 14},
	{`{"event_id":7}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":true}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":""}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":"a b"}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":"a\"b"}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":"a\\b"}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":"é"}`, "invalid_event_id", "/event_id", 12},
	{`{"event_id":"` + strings.Repeat("x", MaxEventID+1) + `"}`, "invalid_event_id", "/event_id", 12},
	{`{"event_type":?}`, "malformed_json", "/event_type", 14},
}

func nest(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
}

// shown shortens an input for a test's message.
func shown(in []byte) string {
	if len(in) > 200 {
		return strconv.Quote(string(in[:200])) + "…"
	}
	return strconv.Quote(string(in))
}

// samplePayloads are the platform's payloads.
func samplePayloads(tb testing.TB) map[string][]byte {
	tb.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir("respondio", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		found[path], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(found) == 0 {
		tb.Fatalf("read the samples: %d found, %v", len(found), err)
	}
	return found
}

func TestCanonicalizeWritesWhatJSONStringifyWould(t *testing.T) {
	for _, c := range accepted {
		p, err := Canonicalize([]byte(c.in))
		if err != nil || string(p.Body) != c.want {
			t.Errorf("%s\n got %s %v\nwant %s", c.in, p.Body, err, c.want)
		}
	}
}

func TestCanonicalizeRefusesWhatReceiversWouldReadDifferently(t *testing.T) {
	for _, c := range refused {
		p, err := Canonicalize([]byte(c.in))
		var bad *InputError
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want an InputError", shown([]byte(c.in)), err)
			continue
		}
		if bad.Code != c.code || bad.Field != c.field || bad.Offset != c.offset {
			t.Errorf("%s: got %s at %q, byte %d (%v), want %s at %q, byte %d", shown([]byte(c.in)),
				bad.Code, bad.Field, bad.Offset, err, c.code, c.field, c.offset)
		}
		if p.Body != nil || p.EventType != nil || p.EventID != nil {
			t.Errorf("%s: an error comes with a payload", shown([]byte(c.in)))
		}
	}
}

func TestCanonicalizeReturnsCanonicalInputItself(t *testing.T) {
	inputs := samplePayloads(t)
	for _, c := range accepted {
		inputs[c.want] = []byte(c.want)
	}
	inputs["deepest"] = []byte(nest(MaxDepth))
	inputs["a line"] = []byte("{\"a\":1}\r\n")
	for name, in := range inputs {
		s := scanner{src: bytes.TrimSpace(in)}
		if !s.scan() {
			t.Errorf("%s: the scanner does not recognise it", name)
		}
		if p, err := Canonicalize(in); err != nil || &p.Body[0] != &in[0] || len(p.Body) != len(bytes.TrimSpace(in)) {
			t.Errorf("%s: got a copy or an error: %v", name, err)
		}
	}
}

func TestCanonicalizeReturnsItsInputEvenWhenTheScannerHasNoRoom(t *testing.T) {
	in := manyKeys(5000, func(i int) string { return "key " + strconv.Itoa(i) })
	in = append(in[:len(in)-1], `,"event_type":"t","event_id":"i"}`...)
	s := scanner{src: in}
	if s.scan() {
		t.Fatal("the scanner has room for it")
	}
	p, err := Canonicalize(in)
	if err != nil || &p.Body[0] != &in[0] || string(p.EventType) != "t" || string(p.EventID) != "i" {
		t.Errorf("got a copy or an error: %v, %q, %q", err, p.EventType, p.EventID)
	}
}

func TestCanonicalizeDoesNotAllocateForCanonicalInput(t *testing.T) {
	for name, in := range samplePayloads(t) {
		if n := testing.AllocsPerRun(10, func() { _, _ = Canonicalize(in) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	in := []byte(`{"a":[0.30000000000000004,1e-7,-2.2250738585072014e-308,101.68],"event_type":"t"}`)
	if n := testing.AllocsPerRun(10, func() { _, _ = Canonicalize(in) }); n != 0 {
		t.Errorf("numbers: %v allocations", n)
	}
}

func TestCanonicalizeFindsTheTopLevelMembers(t *testing.T) {
	for _, c := range []struct{ in, eventType, eventID string }{
		{`{"event_type":"a","event_id":"b"}`, "a", "b"},
		{`{ "event_type" : "a" , "event_id" : "b" }`, "a", "b"},
		{`{"x":{"event_type":"no","event_id":"no"},"event_id":"b","y":[{"event_id":"no"}],"event_type":"a"}`, "a", "b"},
		{`{"z":1,"event_type":"a","9":"ninth","event_id":"b","1":"first","5":{}}`, "a", "b"},
		{`{"event_typ\u0065":"\u0061","event\u005fid":"\u0062"}`, "a", "b"},
		{`{"event_type":"a\"\u00e9"}`, `a\"é`, ""},
		{`{"x":"event_type","event_id":"event_type"}`, "", "event_type"},
		{`{"x":["event_type","y"]}`, "", ""},
	} {
		p, err := Canonicalize([]byte(c.in))
		if err != nil || string(p.EventType) != c.eventType || string(p.EventID) != c.eventID {
			t.Errorf("%s: got %q and %q, %v", c.in, p.EventType, p.EventID, err)
		}
		if (p.EventType == nil) != (c.eventType == "") || (p.EventID == nil) != (c.eventID == "") {
			t.Errorf("%s: an absent member is not nil, or a present one is", c.in)
		}
	}
	for _, in := range []string{`{"event_type":""}`, `{"event_type" : ""}`} {
		if p, _ := Canonicalize([]byte(in)); p.EventType == nil {
			t.Errorf("%s: an empty event_type is taken for none", in)
		}
	}
}

func TestAppendEventIDAddsTheLastMember(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                            `>{"event_id":"i"}`,
		`{"a":{}}`:                      `>{"a":{},"event_id":"i"}`,
		`{"event_type":"t","1":[null]}`: `>{"1":[null],"event_type":"t","event_id":"i"}`,
	} {
		p, err := Canonicalize([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(p.Body)
		got := p.AppendEventID([]byte(">"), "i")
		if string(got) != want || !bytes.Equal(p.Body, before) {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
		if again, err := Canonicalize(got[1:]); err != nil || string(again.EventID) != "i" || &again.Body[0] != &got[1] {
			t.Errorf("%s: what comes out is not canonical: %v", in, err)
		}
	}
}

func TestErrorsOfAPayloadShowNoMoreThanAKey(t *testing.T) {
	long := strings.Repeat("k", 1000)
	for _, in := range []string{
		`{"` + long + `":{"secret":1,"secret":2}}`,
		`{"a":"` + long + `","b":9007199254740993}`,
		`{"event_id":"` + long + ` "}`,
		`{"` + long + `":1,"` + long + `":2}`,
		`{"\u001b]0;x\u0007":1e999}`,
		`{"\u202e":[1,2,{"\u001b":1,"\u001b":2}]}`,
		`{"a":secret}`,
	} {
		_, err := Canonicalize([]byte(in))
		if err == nil {
			t.Fatalf("%s is accepted", shown([]byte(in)))
		}
		text := err.Error()
		if len(text) > 500 || strings.Contains(text, long) || strings.Contains(text, "9007199254740993") {
			t.Errorf("%s: too much of the payload: %s", shown([]byte(in)), text)
		}
		if strings.ContainsAny(text, "\x1b\x07\u202e") {
			t.Errorf("%s: not printable: %q", shown([]byte(in)), text)
		}
	}
}

// manyKeys is an object of n members with the keys that key gives.
func manyKeys(n int, key func(int) string) []byte {
	b := []byte{'{'}
	for i := range n {
		b = append(b, strconv.Quote(key(i))+":0,"...)
	}
	b[len(b)-1] = '}'
	return b
}

func TestCanonicalizeBearsHostileInput(t *testing.T) {
	const size = 1 << 20
	// Each level has its array index behind another member, so that each moves all below it.
	shuffled := strings.Repeat(`{"a":"`+strings.Repeat("x", size/MaxDepth)+`","1":`, MaxDepth-1) + "{}" + strings.Repeat("}", MaxDepth-1)
	for name, in := range map[string][]byte{
		"keys":              manyKeys(100_000, strconv.Itoa),
		"falling indices":   manyKeys(100_000, func(i int) string { return strconv.Itoa(100_000 - i) }),
		"plain keys":        manyKeys(100_000, func(i int) string { return "k" + strconv.Itoa(i) }),
		"same tails":        manyKeys(20_000, func(i int) string { return strconv.Itoa(i) + strings.Repeat("x", 40) }),
		"moved levels":      []byte(shuffled),
		"many objects":      []byte(`{"a":[` + strings.Repeat(`{"b":1,"1":{}},`, size/15) + `0]}`),
		"digits":            []byte(`{"a":0.` + strings.Repeat("1", size) + `}`),
		"zeros":             []byte(`{"a":0.` + strings.Repeat("0", size) + `1e` + strconv.Itoa(size) + `}`),
		"exponent":          []byte(`{"a":1e-` + strings.Repeat("9", size) + `}`),
		"exponents":         []byte(`{"a":[` + strings.Repeat("9e15,", size/5) + `0]}`),
		"hard numbers":      []byte(`{"a":[` + strings.Repeat("1.00000000000000011102230246251565404236316680908203125,", size/55) + `0]}`),
		"escapes":           []byte(`{"a":"` + strings.Repeat(`\u0041`, size/6) + `"}`),
		"white space":       []byte(`{` + strings.Repeat(" ", size) + `}`),
		"one long key":      []byte(`{"` + strings.Repeat("x", size) + `": 1}`),
		"long moved member": []byte(`{"a":0,"1":"` + strings.Repeat("x", size) + `"}`),
	} {
		p, err := Canonicalize(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, _, err := rewrite(p.Body); err != nil || !bytes.Equal(again, p.Body) {
			t.Errorf("%s: not a fixpoint: %v", name, err)
		}
	}
}

func BenchmarkCanonicalize(b *testing.B) {
	var all [][]byte
	size := 0
	for _, in := range samplePayloads(b) {
		all = append(all, in)
		size += len(in)
	}
	b.Run("canonical", func(b *testing.B) {
		b.SetBytes(int64(size / len(all)))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := Canonicalize(all[i%len(all)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rewritten", func(b *testing.B) {
		indented := make([][]byte, len(all))
		for i, in := range all {
			var out bytes.Buffer
			if err := json.Indent(&out, in, "", "  "); err != nil {
				b.Fatal(err)
			}
			indented[i] = out.Bytes()
		}
		b.SetBytes(int64(size / len(all)))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := Canonicalize(indented[i%len(all)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
