package relay

import (
	"embed"
	htmltemplate "html/template"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// letter is what a mail tells, as it is kept until the mail is sent.
type letter struct {
	Kind      noticeKind `json:"kind"`
	Workspace string     `json:"workspace"`
	Language  string     `json:"language"`
	At        time.Time  `json:"at"`
	Endpoint  string     `json:"endpoint,omitzero"`
	URL       string     `json:"url,omitzero"`
	Percent   int        `json:"percent,omitzero"`
	Count     int        `json:"count,omitzero"`
	Quota     int        `json:"quota,omitzero"`
	// PerEndpoint says that the quota is the endpoint's own, Discards that it gets nothing of what
	// comes while it is disabled.
	PerEndpoint bool            `json:"per_endpoint,omitzero"`
	Discards    bool            `json:"discards,omitzero"`
	Failures    []FailedAttempt `json:"failures,omitempty"`
	Digest      digest          `json:"digest,omitzero"`
}

func letterOf(f *notice, ws staffetta.Workspace, e staffetta.Endpoint) letter {
	return letter{
		Kind: f.kind, Workspace: ws.ID, Language: ws.Language, At: f.at, Endpoint: f.endpoint, URL: f.url,
		Percent: f.percent, Count: f.count, Quota: f.quota, Failures: f.failures,
		PerEndpoint: ws.QuotaScope == staffetta.QuotaEndpoint, Discards: e.OnDisable == staffetta.Discard,
	}
}

func letterOfDigest(d digest, ws staffetta.Workspace) letter {
	return letter{Kind: noticeDigest, Workspace: ws.ID, Language: ws.Language, At: stamp(), Digest: d}
}

// writtenLetter is a mail's content.
type writtenLetter struct {
	Subject, Language, Text, HTML string
}

// sheet is what both parts of a mail are set from.
type sheet struct {
	Language string
	// Colour of the bar on top: how bad it is.
	Colour  htmltemplate.CSS
	Heading string
	Intro   []string
	Facts   []fact
	Tables  []sheetTable
	Remedy  string
	Steps   []step
	Footer  string
}

type fact struct{ Name, Value string }

type sheetTable struct {
	Title string
	Head  []string
	Rows  [][]cell
}

// cell may have a second line, in small print.
type cell struct{ Text, Small string }

// step is one way to put it right; Code is for a terminal.
type step struct{ Text, Code string }

//go:embed notices/mail.html notices/mail.txt
var noticeFiles embed.FS

var (
	noticeHTML = htmltemplate.Must(htmltemplate.ParseFS(noticeFiles, "notices/mail.html"))
	noticeText = template.Must(template.ParseFS(noticeFiles, "notices/mail.txt"))
)

// letterWriter writes letters out.
type letterWriter struct {
	publicURL string
	window    time.Duration
}

// Colours of the bar on top.
const (
	amber = "#b45309"
	red   = "#b91c1c"
	slate = "#475569"
)

func (w letterWriter) write(l letter) writtenLetter {
	words := wordsOf(l.Language)
	s := sheet{Language: words.language(), Footer: words.footer(l.Workspace)}
	var subject string
	switch l.Kind {
	case noticeDisabled:
		subject = w.disabled(&s, l, words)
	case noticeDigest:
		subject = w.digest(&s, l, words)
	default:
		subject = w.warning(&s, l, words)
	}
	out := writtenLetter{Subject: "[" + l.Workspace + "] " + subject, Language: s.Language}
	var text, html strings.Builder
	// Both templates are part of the program and get what they ask for: they cannot fail.
	_ = noticeText.Execute(&text, s)
	_ = noticeHTML.Execute(&html, s)
	out.Text, out.HTML = text.String(), html.String()
	return out
}

func (w letterWriter) warning(s *sheet, l letter, words phrases) string {
	s.Colour = amber
	s.Heading = words.warningHeading(l.Percent)
	s.Intro = words.warningIntro(l, w.span(words))
	s.Facts = []fact{
		{words.workspace(), l.Workspace},
		{words.lastFailing(), l.URL},
		{words.failures(), words.outOf(l.Count, l.Quota)},
		{words.time(), instant(l.At)},
	}
	return words.warningSubject(l)
}

func (w letterWriter) disabled(s *sheet, l letter, words phrases) string {
	s.Colour = red
	s.Heading = words.disabledHeading()
	s.Intro = words.disabledIntro(l, w.span(words))
	s.Facts = []fact{
		{words.workspace(), l.Workspace},
		{"URL", l.URL},
		{words.endpoint(), l.Endpoint},
		{words.disabledAt(), instant(l.At)},
		{words.failures(), words.outOf(l.Count, l.Quota)},
	}
	if len(l.Failures) > 0 {
		t := sheetTable{Title: words.lastFailures(), Head: []string{words.time(), words.eventType(), words.result()}}
		for _, f := range l.Failures {
			t.Rows = append(t.Rows, []cell{{Text: instant(f.At)}, {Text: f.EventType}, {Text: f.result()}})
		}
		s.Tables = append(s.Tables, t)
	}
	s.Remedy = words.enableAgain()
	s.Steps = []step{
		{Text: words.enableOnPlatform()},
		{Text: words.enableByAPI(), Code: "curl -X POST \\\n  -H \"Authorization: Bearer $STAFFETTA_KEY\" \\\n  \"" +
			w.base() + workspacesPath + l.Workspace + "/endpoints/" + l.Endpoint + "/enable\""},
		{Text: words.enableByCommand(), Code: "staffetta endpoints enable " + l.Endpoint + " \\\n  --workspace " +
			l.Workspace + " --relay \"" + w.base() + "\""},
	}
	return words.disabledSubject(hostOf(l.URL))
}

func (f *FailedAttempt) result() string {
	if f.Error == "" {
		return "HTTP " + strconv.Itoa(f.Status)
	}
	return oneLine(f.Error)
}

func (w letterWriter) digest(s *sheet, l letter, words phrases) string {
	d := l.Digest
	s.Colour = slate
	s.Heading = words.digestSubject(d.Total)
	s.Intro = words.digestIntro(d.Total, instant(d.Since))
	s.Facts = []fact{{words.workspace(), l.Workspace}, {words.dropped(), strconv.Itoa(d.Total)}}
	byEndpoint := sheetTable{Title: words.byEndpoint(), Head: []string{words.endpoint(), words.events()}}
	rest := d.Total
	for _, e := range d.Endpoints {
		byEndpoint.Rows = append(byEndpoint.Rows, []cell{{e.URL, e.ID}, {Text: strconv.Itoa(e.Count)}})
		rest -= e.Count
	}
	if rest > 0 {
		byEndpoint.Rows = append(byEndpoint.Rows, []cell{{Text: words.others()}, {Text: strconv.Itoa(rest)}})
	}
	newest := sheetTable{Title: words.newest(), Head: []string{words.time(), words.event(), words.reason()}}
	for _, e := range slices.Backward(d.Newest) {
		newest.Rows = append(newest.Rows, []cell{{Text: instant(e.At)}, {e.Type, e.ID}, {Text: e.Reason}})
	}
	s.Tables = []sheetTable{byEndpoint, newest}
	which := ""
	if len(d.Endpoints) == 1 && rest == 0 {
		which = `"endpoint":"` + d.Endpoints[0].ID + `",`
	}
	s.Remedy = words.sendAgain()
	s.Steps = []step{{Text: words.sendAgainByAPI(), Code: "curl -X POST \\\n  -H \"Authorization: Bearer $STAFFETTA_KEY\" \\\n  -H \"Content-Type: application/json\" \\\n" +
		"  -d '{" + which + `"since":"` + d.Since.UTC().Truncate(time.Second).Format(time.RFC3339) + `","outcome":"dropped"}' \` +
		"\n  \"" + w.base() + workspacesPath + l.Workspace + "/replays\""}}
	return words.digestSubject(d.Total)
}

// base is the relay's address as a command writes it.
func (w letterWriter) base() string {
	if w.publicURL == "" {
		return "$STAFFETTA_URL"
	}
	return w.publicURL
}

// span says how long the window is.
func (w letterWriter) span(words phrases) string {
	if w.window%time.Minute == 0 {
		return words.minutes(int(w.window / time.Minute))
	}
	return w.window.String()
}

// instant is a time as the mails write it.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// hostOf is what a subject shows of a URL.
func hostOf(raw string) string {
	_, rest, _ := strings.Cut(raw, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	return host
}
