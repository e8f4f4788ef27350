package bench

import (
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
)

// page is the report: one file, nothing from outside, well-formed as XML too.
var page = template.Must(template.New("report").Funcs(template.FuncMap{"count": count[int64]}).Parse(pageTemplate))

// view is what the template shows.
type view struct {
	Title       string
	Light, Dark template.CSS
	Parts       []part
	Comparison  *Comparison
}

// part is one result.
type part struct {
	ID     string
	Result *Result
	Key    []keyFigure
	Charts []*chart
	JSON   string
}

// keyFigure is a figure that stands at the top.
type keyFigure struct{ Name, Value, Note string }

// OK says that everything on the page is well.
func (v *view) OK() bool {
	return !slices.ContainsFunc(v.Parts, func(p part) bool { return !p.Result.Verdict.OK })
}

// WriteHTML writes the result as a page.
func (r *Result) WriteHTML(w io.Writer) error { return WriteHTML(w, r) }

// WriteHTML writes results as one page.
func WriteHTML(w io.Writer, results ...*Result) error {
	v := &view{Title: "staffetta bench"}
	for i, r := range results {
		one, err := partOf(r, fmt.Sprintf("r%d", i))
		if err != nil {
			return err
		}
		one.Charts = chartsOf(r)
		v.Parts = append(v.Parts, one)
	}
	if len(results) == 1 {
		v.Title += " " + results[0].Scenario
	}
	return v.write(w)
}

// WriteHTML writes the comparison as a page, with the lines of both runs in one drawing.
func (c *Comparison) WriteHTML(w io.Writer) error {
	v := &view{Title: "staffetta bench " + c.After.Scenario + ", compared", Comparison: c}
	for i, r := range []*Result{c.Before, c.After} {
		one, err := partOf(r, fmt.Sprintf("r%d", i))
		if err != nil {
			return err
		}
		if i == 1 {
			one.Charts = chartsOf(c.Before, c.After)
		}
		v.Parts = append(v.Parts, one)
	}
	slices.Reverse(v.Parts)
	return v.write(w)
}

func (v *view) write(w io.Writer) error {
	v.Light = palette("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b91c1c", "#0e7490", "#a16207", "#be185d")
	v.Dark = palette("#6ea8fe", "#fb923c", "#4ade80", "#c4b5fd", "#f87171", "#22d3ee", "#facc15", "#f472b6")
	if err := page.Execute(w, v); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

func partOf(r *Result, id string) (part, error) {
	short := *r
	short.Phases = nil // they are in the charts, and whole in the JSON file
	figures := make(map[string]any, len(r.Figures))
	for name, value := range r.Figures {
		if name != "timeline" {
			figures[name] = value
		}
	}
	short.Figures = figures
	text, err := json.MarshalIndent(&short, "", "  ")
	if err != nil {
		return part{}, fmt.Errorf("write page: %w", err)
	}
	return part{ID: id, Result: r, Key: r.keyFigures(), JSON: string(text)}, nil
}

// keyFigures are those that a reader looks for first.
func (r *Result) keyFigures() (list []keyFigure) {
	add := func(name, value, format string, args ...any) {
		list = append(list, keyFigure{name, value, fmt.Sprintf(format, args...)})
	}
	add("delivered", count(r.DeliveredPerSecond)+"/s", "%s events", count(r.Delivered))
	add("accepted", count(r.AcceptedPerSecond)+"/s", "%s of %s offered", count(r.Accepted), count(r.Offered))
	if r.FloorPerSecond > 0 {
		add("ratio", fmt.Sprintf("%.2f", r.Ratio), "of the floor of %s/s", count(r.FloorPerSecond))
	}
	if r.ProxyPerSecond > 0 {
		add("proxy ratio", fmt.Sprintf("%.2f", r.ProxyRatio), "of a stateless proxy's %s/s", count(r.ProxyPerSecond))
	}
	if perSecond, ratio := r.sequential(); perSecond > 0 {
		add("sequential ratio", fmt.Sprintf("%.2f", ratio), "of one request after another's %s/s", count(perSecond))
	}
	add("latency p99", ms(r.LatencyMS.P99)+" ms", "p50 %s, max %s", ms(r.LatencyMS.P50), ms(r.LatencyMS.Max))
	add("answer p99", ms(r.AckMS.P99)+" ms", "p50 %s, max %s", ms(r.AckMS.P50), ms(r.AckMS.Max))
	if r.CPUSecondsPer1000 != nil && r.RSSMiB != nil {
		add("cost", fmt.Sprintf("%.3f CPU s", *r.CPUSecondsPer1000), "for 1,000 deliveries, %.0f MiB", *r.RSSMiB)
	}
	if targets := r.targets(); len(targets) > 0 {
		add("targets", fmt.Sprintf("%d of %d held", len(targets)-missed(targets), len(targets)), "%s", targetsText(targets))
	}
	add("lost", count(r.Lost), "%s twice, %s out of order", count(r.Duplicated), count(r.OutOfOrder))
	return list
}

// Setting says in a line what the run was asked for.
func (p part) Setting() string {
	var list []string
	options := plain(p.Result.Figures)["options"]
	all, _ := options.(map[string]any)
	for _, o := range []struct{ name, text string }{
		{"endpoints", "%v endpoints"},
		{"batch", "%v events a post"},
		{"payload", "%v bytes an event"},
		{"duration_s", "phases of %v s"},
		{"rate", "%v events a second"},
		{"target", "target %v"},
	} {
		if v, ok := all[o.name]; ok && v != 0.0 && v != "" {
			list = append(list, fmt.Sprintf(o.text, v))
		}
	}
	return strings.Join(list, ", ")
}
