package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const (
	dashboardFile = "../../deploy/grafana/staffetta.json"
	alertsFile    = "../../deploy/prometheus/alerts.yml"
	metricsPage   = "../../docs/metrics.md"
)

// metricFamily is a metric of the registry.
type metricFamily struct {
	kind   string
	labels []string
}

// metricFamilies are the metrics of a relay that has just been made.
func metricFamilies(t *testing.T) map[string]metricFamily {
	t.Helper()
	gathered, err := newRelayMetrics(&gate{}).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]metricFamily{}
	for _, f := range gathered {
		one := metricFamily{kind: f.GetType().String()}
		for _, l := range f.GetMetric()[0].GetLabel() {
			one.labels = append(one.labels, l.GetName())
		}
		all[f.GetName()] = one
	}
	return all
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	quotedText  = regexp.MustCompile(`"[^"]*"`)
	grouping    = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	selector    = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}`)
	rangeOf     = regexp.MustCompile(`\[[^\]]*\]`)
	word        = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	numbers     = regexp.MustCompile(`\b[0-9][0-9.a-z]*\b`)
	operators   = []string{"and", "or", "unless", "offset", "bool"}
	targetNames = []string{"job", "instance", "le"} // what a scrape adds, and a histogram
)

// used takes the metrics, and the labels that are asked of them, out of an expression.
func used(expr string) (metrics []string, labels map[string][]string) {
	labels = map[string][]string{}
	expr = quotedText.ReplaceAllString(expr, `""`)
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		for matcher := range strings.SplitSeq(m[2], ",") {
			labels[m[1]] = append(labels[m[1]], strings.TrimSpace(strings.FieldsFunc(matcher, func(r rune) bool { return strings.ContainsRune("=!~", r) })[0]))
		}
	}
	expr = selector.ReplaceAllString(expr, "$1")
	var grouped []string
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for name := range strings.SplitSeq(g[2], ",") {
			grouped = append(grouped, strings.TrimSpace(name))
		}
	}
	expr = rangeOf.ReplaceAllString(grouping.ReplaceAllString(expr, " "), "")
	for _, w := range word.FindAllString(numbers.ReplaceAllString(expr, " "), -1) {
		name := strings.TrimSpace(w)
		if !strings.HasSuffix(name, "(") && !slices.Contains(operators, name) {
			metrics = append(metrics, name)
			labels[name] = append(labels[name], grouped...)
		}
	}
	return metrics, labels
}

// checkExpr says what an expression names that there is not.
func checkExpr(t *testing.T, where, expr string, all map[string]metricFamily) {
	t.Helper()
	metrics, labels := used(expr)
	if len(metrics) == 0 {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	for _, name := range metrics {
		if name == "up" {
			continue // Prometheus' own
		}
		base := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if b := strings.TrimSuffix(name, suffix); all[b].kind == "HISTOGRAM" {
				base = b
			}
		}
		f, ok := all[base]
		if !ok {
			t.Errorf("%s: there is no metric %s: %s", where, name, expr)
			continue
		}
		if f.kind == "HISTOGRAM" && base == name {
			t.Errorf("%s: %s is a histogram: %s", where, name, expr)
		}
		for _, label := range labels[name] {
			if !slices.Contains(f.labels, label) && !slices.Contains(targetNames, label) && !strings.Contains(expr, "unless") {
				t.Errorf("%s: %s has no label %s: %s", where, name, label, expr)
			}
		}
	}
}

func TestMetricNamesAreFoundInExpressions(t *testing.T) {
	metrics, labels := used(`histogram_quantile(0.99, sum by (instance, le) (rate(a_seconds_bucket{x="y, z{",q!~"$b"}[5m]))) > 6 * 3600 and b_total == 0 or absent(up{job="s"})`)
	if want := []string{"a_seconds_bucket", "b_total", "up"}; !slices.Equal(metrics, want) {
		t.Errorf("metrics %q, want %q", metrics, want)
	}
	if want := []string{"x", "q", "instance", "le"}; !slices.Equal(labels["a_seconds_bucket"], want) {
		t.Errorf("labels %q, want %q", labels["a_seconds_bucket"], want)
	}
}

func TestTheDashboardShowsMetricsThatThereAre(t *testing.T) {
	var dashboard struct {
		UID    string `json:"uid"`
		Panels []struct {
			ID      int            `json:"id"`
			Type    string         `json:"type"`
			Title   string         `json:"title"`
			GridPos map[string]int `json:"gridPos"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct {
				Name string `json:"name"`
			} `json:"list"`
		} `json:"templating"`
	}
	text := readText(t, dashboardFile)
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	all, shown, ids := metricFamilies(t), "", map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s: the id %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.GridPos["x"]+p.GridPos["w"] > 24 || p.GridPos["h"] == 0 {
			t.Errorf("%s does not fit the grid: %v", p.Title, p.GridPos)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr, all)
			shown += target.Expr + "\n"
		}
	}
	variables := []string{"__rate_interval"}
	for _, v := range dashboard.Templating.List {
		variables = append(variables, v.Name)
	}
	for _, v := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(strings.ReplaceAll(text, `"$__all"`, ""), -1) {
		if !slices.Contains(variables, v[1]) {
			t.Errorf("there is no variable %s", v[1])
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "staffetta_") && name != "staffetta_build_info" && !strings.Contains(shown, name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestTheAlertRulesNameMetricsThatThereAre(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert       string
				Expr        string
				For         string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(readText(t, alertsFile)), &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	all, seen := metricFamilies(t), map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Staffetta") {
				t.Errorf("the name %q is taken, or is not one of ours", r.Alert)
			}
			seen[r.Alert] = true
			checkExpr(t, r.Alert, r.Expr, all)
			if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
				t.Errorf("%s: for: %v", r.Alert, err)
			}
			if s := r.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say what to do", r.Alert)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("there are %d alert rules", len(seen))
	}
}

func TestThePageOfMetricsListsThoseThatThereAre(t *testing.T) {
	rows := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)(?:\\{([\\w,]+)\\})?` \\| [^|]+ \\| [^|]+ \\|[^|]*\\|$").FindAllStringSubmatch(readText(t, metricsPage), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s is listed twice", m[1])
		}
		rows[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	all := metricFamilies(t)
	for name, f := range all {
		if !strings.HasPrefix(name, "staffetta_") {
			continue
		}
		if labels, ok := rows[name]; !ok {
			t.Errorf("%s is not on the page", name)
		} else if !slices.Equal(labels, f.labels) {
			t.Errorf("%s has the labels %q, not %q", name, f.labels, labels)
		}
	}
	for name := range rows {
		if _, ok := all[name]; !ok {
			t.Errorf("there is no metric %s", name)
		}
	}
}

func TestAllMetricsLint(t *testing.T) {
	m := newRelayMetrics(&gate{})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.sender, m.relay)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// scraped asks the relay for its metrics, without a key, and gives the series that are not zero.
func (l *liveRelay) scraped() map[string]float64 {
	l.t.Helper()
	r := l.must(http.StatusOK, "GET", "/metrics", "", "Authorization", "")
	series := map[string]float64{}
	for line := range strings.Lines(string(r.body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && v != 0 && strings.HasPrefix(name, "staffetta_") {
			series[name] = v
		}
	}
	return series
}

// counted is what the traffic of the test below comes to, measured what is above zero then.
var (
	counted = map[string]float64{
		`staffetta_events_accepted_total`:                              7,
		`staffetta_events_duplicate_total`:                             2,
		`staffetta_events_rejected_total{reason="event_type"}`:         2,
		`staffetta_events_rejected_total{reason="malformed"}`:          1,
		`staffetta_events_rejected_total{reason="workspace"}`:          1,
		`staffetta_ingest_answers_total{class="2xx"}`:                  8,
		`staffetta_ingest_answers_total{class="4xx"}`:                  3,
		`staffetta_ingest_ack_seconds_count`:                           8,
		`staffetta_copies_stored_total`:                                7,
		`staffetta_attempts_total{outcome="delivered",result="2xx"}`:   4,
		`staffetta_attempts_total{outcome="dropped",result="refused"}`: 2,
		`staffetta_attempt_duration_seconds_count`:                     6,
		`staffetta_end_to_end_seconds_count`:                           4,
		`staffetta_deliveries_total{end="delivered"}`:                  4,
		`staffetta_deliveries_total{end="dropped"}`:                    2,
		`staffetta_dropped_total{reason="attempts"}`:                   2,
		`staffetta_lanes{state="held"}`:                                1,
		`staffetta_lanes{state="idle"}`:                                1,
		`staffetta_backlog_events`:                                     1,
		`staffetta_workspace_backlog_events{workspace="acme"}`:         1,
		`staffetta_workspaces_with_backlog`:                            1,
		`staffetta_workspaces`:                                         1,
		`staffetta_endpoints`:                                          2,
		`staffetta_disabled_endpoints{reason="quota"}`:                 1,
		`staffetta_disablings_total{reason="quota"}`:                   1,
		`staffetta_log_attempts_written_total`:                         6,
		`staffetta_ready`:                                              1,
		`staffetta_publish_window_size`:                                16384,
		`staffetta_build_info{version="` + version + `"}`:              1,
	}
	measured = []string{
		"staffetta_store_bytes", "staffetta_store_limit_bytes", "staffetta_store_messages", "staffetta_disk_free_bytes",
		"staffetta_oldest_event_age_seconds",
	}
)

func TestARelayCountsWhatItTakesAndDelivers(t *testing.T) {
	l := startLive(t, t.TempDir(), oneAttempt)
	sink := startLiveSink(t)
	l.must(http.StatusCreated, "PUT", "/v1/workspaces/acme", `{"plan":"advanced","quota":1}`)
	l.endpoint("acme", sink.url+"/good", "message.received")
	bad := l.endpoint("acme", "http://"+closedPort(t)+"/bad", "message.sent")
	const events = "/v1/workspaces/acme/events"
	for i := range 3 {
		l.event("acme", fmt.Sprintf(`{"event_type":"message.received","event_id":"e%d"}`, i))
	}
	l.event("acme", `{"event_type":"message.received","event_id":"e1"}`)
	l.must(422, "POST", events, `{"event_type":"no.such"}`)
	l.must(422, "POST", events, `{"event_type"`)
	l.must(404, "POST", "/v1/workspaces/none/events", `{"event_type":"message.received"}`)
	batch := `{"event_type":"message.received","event_id":"b1"}` + "\n" + `{"event_type":"message.received","event_id":"e1"}` + "\n" + `{}` + "\n"
	l.must(202, "POST", events, batch, "Content-Type", "application/x-ndjson")
	for range 3 {
		l.event("acme", `{"event_type":"message.sent"}`)
	}
	sink.wait(t, 4)
	var got map[string]float64
	is := func() bool {
		got = l.scraped()
		for name, value := range counted {
			if got[name] != value {
				return false
			}
		}
		for _, name := range measured {
			if got[name] <= 0 {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(20 * time.Second); !is() && time.Now().Before(end); {
		pause(t.Context(), 20*time.Millisecond)
	}
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		if got[name] != counted[name] {
			t.Errorf("%s is %v, want %v", name, got[name], counted[name])
		}
	}
	for _, name := range measured {
		if got[name] <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	for name := range got {
		if strings.Contains(name, bad) || strings.Contains(name, "127.0.0.1") {
			t.Errorf("%s tells of an endpoint", name)
		}
	}
}

func TestMetricsAreReadOnlyAndNeedNoKey(t *testing.T) {
	l := startLive(t, t.TempDir())
	checkProblem(t, l.ask("POST", "/metrics", "{}"), http.StatusMethodNotAllowed, "method_not_allowed")
	r := l.must(http.StatusOK, "GET", "/metrics", "", "Authorization", "", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(r.header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(string(r.body), "# EOF\n") {
		t.Errorf("not OpenMetrics: %s", r.header.Get("Content-Type"))
	}
	resp, err := l.http.Head("http://" + l.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || len(body) > 0 {
		t.Errorf("HEAD: status %d, %d bytes", resp.StatusCode, len(body))
	}
}
