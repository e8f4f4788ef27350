package bench

// pageTemplate is in html/template's language, which escapes whatever a result says. It has no script, and
// nothing in it is fetched.
const pageTemplate = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width,initial-scale=1"/>
<title>{{.Title}}</title>
<style>
:root{color-scheme:light dark;--fg:#1c2128;--dim:#57606a;--bg:#fff;--box:#f6f8fa;--edge:#d0d7de;--ok:#15803d;--bad:#b91c1c;{{.Light}}}
@media (prefers-color-scheme:dark){:root{--fg:#e6edf3;--dim:#9198a1;--bg:#0d1117;--box:#161b22;--edge:#30363d;--ok:#4ade80;--bad:#f87171;{{.Dark}}}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:var(--fg);background:var(--bg)}
h1{margin:0 0 .5rem}h2{margin:3rem 0 .25rem;border-top:1px solid var(--edge);padding-top:1.5rem}
p{margin:.25rem 0}.dim{color:var(--dim)}a{color:inherit}
.ok{color:var(--ok);font-weight:600}.bad{color:var(--bad);font-weight:600}
.key{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.75rem;margin:1rem 0;padding:0}
.key div{background:var(--box);border:1px solid var(--edge);border-radius:6px;padding:.6rem .8rem}
.key b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}.key span{color:var(--dim);font-size:.85rem}
pre,.wide{overflow-x:auto}pre{background:var(--box);border:1px solid var(--edge);border-radius:6px;padding:.8rem;font-size:13px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid var(--edge)}
td:first-child,th:first-child,td:last-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(28rem,1fr));gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--box);border:1px solid var(--edge);border-radius:6px;padding:.6rem}figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:12px}
.grid{stroke:var(--edge);stroke-width:1}.line{fill:none;stroke-width:1.8}.dash{stroke-dasharray:6 4}
.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}.l2{stroke:var(--c2)}.l3{stroke:var(--c3)}
.l4{stroke:var(--c4)}.l5{stroke:var(--c5)}.l6{stroke:var(--c6)}.l7{stroke:var(--c7)}
.legend{display:flex;flex-wrap:wrap;gap:0 1rem;font-size:13px}.legend svg{display:inline;width:22px;height:8px;vertical-align:middle}
</style></head>
<body>
<h1>{{.Title}}</h1>
<p>{{if .OK}}<span class="ok">all ok</span>{{else}}<span class="bad">not all ok</span>{{end}}</p>
{{with .Comparison}}{{template "comparison" .}}{{else}}{{if gt (len .Parts) 1}}{{template "contents" .}}{{end}}{{end}}
{{range .Parts}}{{template "part" .}}{{end}}
</body></html>
{{define "contents"}}<div class="wide"><table><tr><th>scenario</th><th>delivered/s</th><th>ratio</th><th>p99 ms</th><th>lost</th><th>twice</th><th>out of order</th><th>verdict</th></tr>
{{range .Parts}}<tr><td><a href="#{{.ID}}">{{.Result.Scenario}}</a> <span class="dim">{{.Setting}}</span></td><td>{{printf "%.0f" .Result.DeliveredPerSecond}}</td><td>{{printf "%.2f" .Result.Ratio}}</td><td>{{printf "%.2f" .Result.LatencyMS.P99}}</td><td>{{count .Result.Lost}}</td><td>{{count .Result.Duplicated}}</td><td>{{count .Result.OutOfOrder}}</td><td>{{if .Result.Verdict.OK}}<span class="ok">ok</span>{{else}}<span class="bad">not ok</span>{{end}}</td></tr>
{{end}}</table></div>{{end}}
{{define "comparison"}}<p>staffetta {{.Before.Version}}, then {{.After.Version}}: {{.Summary}}</p>
{{with .Remarks}}<ul>{{range .}}<li>{{.}}</li>{{end}}</ul>{{end}}
<div class="wide"><table><tr><th>figure</th><th>before</th><th>after</th><th>ratio</th><th>fair</th><th>noise</th><th></th></tr>
{{range .Rows}}<tr><td>{{.Name}}</td><td>{{.BeforeText}}</td><td>{{.AfterText}}</td><td>{{.RatioText}}</td><td>{{.FairText}}</td><td>{{.NoiseText}}</td><td>{{if eq .Verdict "worse"}}<span class="bad">worse</span>{{else if eq .Verdict "better"}}<span class="ok">better</span>{{else}}<span class="dim">{{.Verdict}}</span>{{end}}</td></tr>
{{end}}</table></div>{{end}}
{{define "part"}}<h2 id="{{.ID}}">{{.Result.Scenario}}</h2>
<p class="dim">staffetta {{.Result.Version}} on {{.Result.Machine}}</p><p class="dim">{{.Setting}}</p>
<p>{{if .Result.Verdict.OK}}<span class="ok">ok</span>{{else}}<span class="bad">not ok</span>{{end}}</p>
{{with .Result.Verdict.Reasons}}<ul>{{range .}}<li>{{.}}</li>{{end}}</ul>{{end}}
<div class="key">{{range .Key}}<div><span>{{.Name}}</span><b>{{.Value}}</b><span>{{.Note}}</span></div>{{end}}</div>
{{with .Charts}}<div class="charts">{{range .}}{{template "chart" .}}{{end}}</div>{{end}}
{{range .Result.Tables}}<pre>{{.}}</pre>{{end}}
<details><summary>all figures</summary><pre>{{.JSON}}</pre></details>{{end}}
{{define "chart"}}{{$c := .}}<figure><figcaption>{{.Title}}</figcaption>
<svg viewBox="0 0 {{.Width}} {{.Height}}" role="img" aria-label="{{.Title}}">
{{range .Y}}<line class="grid" x1="{{$c.Left}}" x2="{{$c.Right}}" y1="{{.At}}" y2="{{.At}}"/><text x="{{$c.Left}}" y="{{.At}}" dx="-6" dy="4" text-anchor="end">{{.Text}}</text>
{{end}}{{range .X}}<line class="grid" x1="{{.At}}" x2="{{.At}}" y1="{{$c.Top}}" y2="{{$c.End}}"/><text x="{{.At}}" y="{{$c.End}}" dy="16" text-anchor="middle">{{.Text}}</text>
{{end}}<text x="{{.Right}}" y="{{.Height}}" dy="-6" text-anchor="end">{{.XTitle}}</text><text x="4" y="{{.Height}}" dy="-6">{{.YTitle}}</text>
{{range .Lines}}<polyline class="line {{.Class}}{{if .Dashed}} dash{{end}}" points="{{.Points}}"><title>{{.Name}}</title></polyline>
{{end}}</svg>
<div class="legend">{{range .Lines}}<span><svg viewBox="0 0 22 8"><line class="line {{.Class}}{{if .Dashed}} dash{{end}}" x1="0" x2="22" y1="4" y2="4"/></svg> {{.Name}}</span>{{end}}</div></figure>
{{end}}`
