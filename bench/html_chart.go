package bench

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// The size of a chart, and of what is around its lines.
const (
	chartWidth, chartHeight                     = 720.0, 260.0
	marginLeft, marginRight, marginTop, marginB = 64.0, 36.0, 12.0, 40.0
	// chartPoints is how many points a line has at most, chartLines how many lines a chart has.
	chartPoints, chartLines = 240, 8
)

// chart is a drawing with its scales; everything in it is a number or goes through the template.
type chart struct {
	Title, XTitle, YTitle string
	Lines                 []line
	X, Y                  []axisTick
	Width, Height         float64
	Left, Right, Top, End float64 // the frame
}

type line struct {
	Name   string
	Class  string
	Points string
	Dashed bool
	data   []point
}

type axisTick struct {
	At   float64
	Text string
}

// scale brings values to a place.
type scale struct {
	from, to   float64 // values
	start, end float64 // places
	log        bool
}

func (s scale) place(v float64) float64 {
	from, to := s.from, s.to
	if s.log {
		v, from, to = math.Log10(max(v, s.from)), math.Log10(s.from), math.Log10(s.to)
	}
	if to <= from {
		return s.start
	}
	return s.start + min(max((v-from)/(to-from), 0), 1)*(s.end-s.start)
}

func newChart(title, x, y string) *chart {
	return &chart{
		Title: title, XTitle: x, YTitle: y, Width: chartWidth, Height: chartHeight,
		Left: marginLeft, Right: chartWidth - marginRight, Top: marginTop, End: chartHeight - marginB,
	}
}

// add adds a line; one without points is left out.
func (c *chart) add(name string, dashed bool, points []point) {
	if len(points) == 0 || len(c.Lines) >= chartLines {
		return
	}
	c.Lines = append(c.Lines, line{Name: name, Dashed: dashed, Class: "l" + strconv.Itoa(len(c.Lines)%chartLines), data: points})
}

// draw places the lines; it gives nil where there is nothing to see.
func (c *chart) draw(x, y scale) *chart {
	if len(c.Lines) == 0 {
		return nil
	}
	x.start, x.end, y.start, y.end = c.Left, c.Right, c.End, c.Top
	for i := range c.Lines {
		var b strings.Builder
		for _, p := range c.Lines[i].data {
			fmt.Fprintf(&b, "%.1f,%.1f ", x.place(p.at), y.place(p.value))
		}
		c.Lines[i].Points = strings.TrimSpace(b.String())
	}
	for i := range c.X {
		c.X[i].At = math.Round(x.place(c.X[i].At)*10) / 10
	}
	for i := range c.Y {
		c.Y[i].At = math.Round(y.place(c.Y[i].At)*10) / 10
	}
	return c
}

// bounds are the least and the greatest of all lines.
func (c *chart) bounds(of func(point) float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, l := range c.Lines {
		for _, p := range l.data {
			low, high = min(low, of(p)), max(high, of(p))
		}
	}
	return low, high
}

func at(p point) float64    { return p.at }
func value(p point) float64 { return p.value }

// even gives ticks from 0 on to the first round number that is not below high.
func even(high float64) (ticks []axisTick, to float64) {
	if high <= 0 || math.IsInf(high, 0) || math.IsNaN(high) {
		high = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, finer := range []float64{5, 2.5, 2} {
		if high/step < 4 {
			step = math.Pow(10, math.Floor(math.Log10(high))) / 10 * finer
		}
	}
	for v := 0.0; ; v += step {
		ticks = append(ticks, axisTick{v, axisNumber(v, step)})
		if v >= high*(1-1e-9) {
			return ticks, v
		}
	}
}

// decades gives ticks of powers of ten around a range.
func decades(low, high float64) (ticks []axisTick, from, to float64) {
	low = max(low, 1e-3)
	from, to = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(max(high, low))))
	if from == to {
		to *= 10
	}
	for v := from; v <= to*1.0001; v *= 10 {
		ticks = append(ticks, axisTick{v, axisNumber(v, v)})
	}
	return ticks, from, to
}

func axisNumber(v, step float64) string {
	if step >= 1 {
		return count(v)
	}
	return strconv.FormatFloat(v, 'f', int(min(6, math.Ceil(-math.Log10(step)+0.6))), 64)
}

// overTime draws lines whose values are from 0 on, over seconds.
func (c *chart) overTime() *chart {
	if len(c.Lines) == 0 {
		return nil
	}
	_, seconds := c.bounds(at)
	_, most := c.bounds(value)
	x, y := scale{to: seconds}, scale{}
	c.X, x.to = even(seconds)
	c.Y, y.to = even(most)
	return c.draw(x, y)
}

// spectrum draws times at quantiles: the further to the right, the rarer.
func (c *chart) spectrum() *chart {
	if len(c.Lines) == 0 {
		return nil
	}
	_, rarest := c.bounds(at)
	least, most := c.bounds(value)
	nines := max(1, math.Ceil(math.Log10(rarest)))
	x, y := scale{from: 1, to: math.Pow(10, nines), log: true}, scale{log: true}
	c.X = []axisTick{{1, "0 %"}}
	for n := 1.0; n <= nines; n++ {
		c.X = append(c.X, axisTick{math.Pow(10, n), strconv.FormatFloat(100*(1-math.Pow(10, -n)), 'f', int(max(0, n-2)), 64) + " %"})
	}
	c.Y, y.from, y.to = decades(least, most)
	return c.draw(x, y)
}

// rarity turns percentiles into points of 1/(1-quantile), up to the one event that was the slowest.
func (d *Distribution) rarity() (points []point) {
	if d == nil {
		return nil
	}
	for _, p := range d.Percentiles {
		rare := float64(d.Count)
		if p[0] < 1 {
			rare = min(rare, 1/(1-p[0]))
		}
		points = append(points, point{max(1, rare), p[1]})
	}
	return points
}

// chartsOf draws a result, and beside it, where there is one, the run before. Only what was counted is shown.
func chartsOf(results ...*Result) (charts []*chart) {
	latency, ack := newChart("Latency by percentile", "percentile", "ms"), newChart("Time to the answer by percentile", "percentile", "ms")
	for i, r := range results {
		for j := range r.Phases {
			p := &r.Phases[j]
			if !p.Counted {
				continue
			}
			latency.add(runOf(results, i)+p.title(), i == 0 && len(results) > 1, p.Latency.rarity())
			ack.add(runOf(results, i)+p.title(), i == 0 && len(results) > 1, p.Ack.rarity())
		}
	}
	charts = append(charts, latency.spectrum(), ack.spectrum())
	for i, r := range results {
		for j := range r.Phases {
			if p := &r.Phases[j]; p.Counted && len(p.Timeline) > 1 {
				charts = append(charts, p.throughput(runOf(results, i), r.floorOf(p.Of)), p.latencies(runOf(results, i)))
			}
		}
	}
	drawn := charts[:0]
	for _, c := range charts {
		if c != nil {
			drawn = append(drawn, c)
		}
	}
	return drawn
}

// runOf says which run a line is of, where there are two.
func runOf(results []*Result, i int) string {
	if len(results) < 2 {
		return ""
	}
	return [...]string{"before: ", "after: "}[min(i, 1)]
}

func (p *Record) throughput(run string, floor float64) *chart {
	c := newChart("Events a second, "+run+p.title(), "seconds", "events/s")
	c.add("delivered", false, p.rates(delivered, chartPoints))
	c.add("accepted", false, p.rates(accepted, chartPoints))
	if _, most := c.bounds(value); floor > 0 && p.Name == closedLoop && most > floor/20 { // else it would flatten the lines
		end := p.Timeline[len(p.Timeline)-1].AtS
		c.add("floor", true, []point{{0, floor}, {end, floor}})
	}
	return c.overTime()
}

func (p *Record) latencies(run string) *chart {
	c := newChart("Times, "+run+p.title(), "seconds", "ms")
	for _, l := range []struct {
		name string
		of   func(Sample) *Short
		p99  bool
	}{
		{"latency p50", func(s Sample) *Short { return s.Latency }, false},
		{"latency p99", func(s Sample) *Short { return s.Latency }, true},
		{"answer p50", func(s Sample) *Short { return s.Ack }, false},
		{"answer p99", func(s Sample) *Short { return s.Ack }, true},
	} {
		c.add(l.name, false, p.times(func(s Sample) (float64, bool) {
			short := l.of(s)
			switch {
			case short == nil:
				return 0, false
			case l.p99:
				return short.P99, true
			default:
				return short.P50, true
			}
		}, chartPoints))
	}
	return c.overTime()
}

// floorOf is the mean of the floors of what was measured.
func (r *Result) floorOf(name string) float64 {
	var sum, n float64
	for _, f := range r.Floors {
		if f.Of == name {
			sum, n = sum+f.Direct, n+1
		}
	}
	return ratio(sum, n)
}

// palette are the colours of the lines, for light and for dark pages.
func palette(colours ...string) template.CSS {
	var b strings.Builder
	for i, c := range colours {
		fmt.Fprintf(&b, "--c%d:%s;", i, c)
	}
	return template.CSS(b.String()) //nolint:gosec // of constants
}
