package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// hostile is what would be harmful if it were not escaped.
const hostile = `</pre></svg></style><script>alert("1")</script><img src='http://evil.example/' onerror=x> & " '`

// aCharted is a result with everything that a page shows.
func aCharted(text string) *Result {
	r := aRun(10_000, 40_000, 41_000)
	r.Scenario, r.Version, r.Machine, r.Tables = text, text, text, []string{text}
	r.Verdict = Verdict{Reasons: []string{text}}
	r.Figures[text] = text
	h := NewHistogram()
	for i := range 5000 {
		h.Record(i, time.Duration(1+i%400)*time.Millisecond)
	}
	p := Record{Of: text, Name: text, Counted: true, LoadS: 9, Latency: h.Distribution(), Ack: h.Distribution()}
	for i := range 10 {
		p.Timeline = append(p.Timeline, Sample{AtS: float64(i + 1), Accepted: int64(1000 * i), Delivered: int64(900 * i), Recent: Recent{Latency: &Short{P50: 1, P99: float64(i)}}})
	}
	r.Phases = []Record{p, {Of: text, Name: "warm-up"}}
	return r
}

// mustBeAPage reads the page as XML; it gives how often each element stands there, and all text.
func mustBeAPage(t *testing.T, page string) (elements map[string]int, text string) {
	t.Helper()
	elements = make(map[string]int)
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements, text
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			elements[e.Name.Local]++
			for _, a := range e.Attr {
				name := strings.ToLower(a.Name.Local)
				if name == "src" || name == "xmlns" || strings.HasPrefix(name, "on") || name == "href" && !strings.HasPrefix(a.Value, "#") {
					t.Errorf("<%s %s=%q>", e.Name.Local, name, a.Value)
				}
			}
		case xml.CharData:
			text += string(e)
		}
	}
}

func mustFetchNothing(t *testing.T, elements map[string]int, page string) {
	t.Helper()
	for _, name := range []string{"script", "link", "img", "iframe", "object", "base", "use", "image"} {
		if elements[name] > 0 {
			t.Errorf("the page has a <%s>", name)
		}
	}
	style, _, _ := strings.Cut(page, "</style>")
	for _, part := range []string{"url(", "@import", "ZgotmplZ"} {
		if strings.Contains(style, part) || strings.Contains(page, "ZgotmplZ") {
			t.Errorf("the style has %s", part)
		}
	}
}

func TestThePageIsWellFormedAndFetchesNothing(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHTML(&b, aCharted("relay"), aCharted("latency")); err != nil {
		t.Fatal(err)
	}
	elements, text := mustBeAPage(t, b.String())
	mustFetchNothing(t, elements, b.String())
	if elements["polyline"] != 2*(1+1+2+2) || elements["figure"] != 2*4 || elements["h2"] != 2 {
		t.Errorf("%v", elements)
	}
	for _, want := range []string{"99.9 %", "Latency by percentile", "not ok", "10,000/s", "prefers-color-scheme"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %s", want)
		}
	}
	if strings.Contains(b.String(), "://") {
		t.Error("the page has a URL")
	}
}

func TestThePageEscapesWhateverAResultSays(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"one": aCharted(hostile).WriteHTML,
		"compared": func(w io.Writer) error {
			c, err := Compare(aCharted(hostile), aCharted(hostile))
			if err != nil {
				return err
			}
			c.Remarks, c.Rows[0].Name = append(c.Remarks, hostile), hostile
			return c.WriteHTML(w)
		},
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		elements, text := mustBeAPage(t, b.String())
		mustFetchNothing(t, elements, b.String())
		if !strings.Contains(text, hostile) {
			t.Errorf("%s: the page does not show the text as it is", name)
		}
	}
}

func TestAPageOfAResultWithNothingInItIsMade(t *testing.T) {
	var b bytes.Buffer
	if err := (&Result{Phases: []Record{{Counted: true}, {Counted: true, Timeline: make([]Sample, 3)}}}).WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	mustBeAPage(t, b.String())
	if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
		t.Errorf("%s", &b)
	}
}
