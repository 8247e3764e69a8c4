"""The style sheet of the report: one column, system fonts, light and dark, readable on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1c1b1a; --soft: #6b6762; --rule: #e6e2dc; --grid: #efece7;
  --accent: #3b5bdb; --accent-soft: #e8ecfc; --other: #a49e96; --good: #1a7f64; --good-soft: #dff3ec; --bad: #c2410c; --bad-soft: #fdebdf; --code: #f5f3ef; }
@media (prefers-color-scheme: dark) { :root { --paper: #141416; --card: #1c1c1f; --ink: #eceae6; --soft: #a09c96; --rule: #303035; --grid: #29292d;
  --accent: #8ea2ff; --accent-soft: #262c4d; --other: #77736d; --good: #4fc3a1; --good-soft: #17352d; --bad: #ff9a62; --bad-soft: #3d2416; --code: #222226; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1040px; margin: 0 auto; padding: 56px 28px 96px; }
h1, h2, h3 { line-height: 1.2; letter-spacing: -0.015em; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 2.1rem; font-weight: 700; }
h2 { font-size: 1.3rem; font-weight: 650; margin: 64px 0 6px; }
h3 { font-size: 0.98rem; font-weight: 600; margin: 0; letter-spacing: 0; }
p { margin: 0; }
a { color: var(--accent); }
.eyebrow { color: var(--soft); font-size: 0.8rem; letter-spacing: 0.09em; text-transform: uppercase; margin-bottom: 8px; }
.facts { color: var(--soft); margin-top: 10px; display: flex; flex-wrap: wrap; gap: 2px 22px; font-size: 0.92rem; }
.facts b { color: var(--ink); font-weight: 550; overflow-wrap: anywhere; }
.lead { color: var(--soft); max-width: 70ch; margin-bottom: 20px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; }
.verdict { margin-top: 34px; padding: 30px 34px; display: grid; grid-template-columns: auto 1fr; gap: 10px 44px; align-items: center; }
.verdict .score { font-size: 3rem; max-width: none; font-weight: 700; letter-spacing: -0.03em; line-height: 1.05; white-space: nowrap; }
.score .old { color: var(--other); font-weight: 500; }
.score .arrow { color: var(--other); font-weight: 300; padding: 0 0.12em; }
.score .new { color: var(--accent); }
.score small { display: block; font-size: 0.8rem; font-weight: 500; letter-spacing: 0.02em; color: var(--soft); margin-top: 8px; }
.verdict p { font-size: 1.12rem; max-width: 52ch; text-wrap: pretty; }
.notice { margin-top: 18px; padding: 13px 18px; border-radius: 10px; background: var(--bad-soft); border-left: 4px solid var(--bad); overflow-wrap: anywhere; }
.notice.calm { background: var(--accent-soft); border-color: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; }
th, td { padding: 11px 16px; text-align: left; vertical-align: top; border-top: 1px solid var(--rule); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 0.84rem; white-space: nowrap; }
th[scope=row] { font-weight: 550; overflow-wrap: anywhere; min-width: 7.5em; }
td.number, th.number { text-align: right; white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: 0.78rem; font-weight: 400; }
tr.ours th, tr.ours td { background: var(--accent-soft); }
tr.ours td.number b { color: var(--accent); }
tbody tr:last-child > * { border-bottom: 0; }
.tests { margin: 14px 4px 22px; padding: 0; list-style: none; color: var(--soft); font-size: 0.92rem; }
.tests b { color: var(--ink); font-weight: 600; }
figure { margin: 0; padding: 18px 20px 10px; }
figcaption { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; margin-bottom: 6px; }
figcaption span { color: var(--soft); font-size: 0.84rem; text-align: right; }
.charts { display: flex; flex-wrap: wrap; gap: 18px; } .charts figure { flex: 1 1 280px; } .charts figure:nth-child(-n+2) { flex-basis: 400px; }
@media (min-width: 1000px) { .charts figure:nth-child(n+3) svg { font-size: 16.5px; } }
svg.chart { display: block; width: 100%; height: auto; font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow: visible; }
svg.wide { font-size: 13px; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); stroke-opacity: 0.55; }
.tick, .count { fill: var(--soft); }
.line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; stroke-opacity: 0.28; }
.dot.main { fill: var(--accent); } .dot.other { fill: var(--other); }
.whisker { fill: none; stroke-width: 2.5; stroke-linecap: round; } .whisker.main { stroke: var(--accent); } .whisker.other { stroke: var(--other); }
.label { font-size: 14px; fill: var(--ink); } .label.main { font-weight: 600; }
.value { font-size: 14px; font-weight: 600; fill: var(--soft); } .value.main { fill: var(--accent); }
.mark { fill: var(--card); stroke: var(--accent); stroke-width: 2.5; } .note { fill: var(--accent); font-weight: 600; }
.bar.better { fill: var(--good); } .bar.worse { fill: var(--bad); }
.share { display: flex; height: 14px; border-radius: 7px; overflow: hidden; gap: 2px; margin: 18px 0 10px; }
.share i { display: block; min-width: 3px; } .share .better, .key .better { background: var(--good); } .share .worse, .key .worse { background: var(--bad); }
.share .equal, .key .equal { background: var(--rule); }
.key { display: flex; flex-wrap: wrap; gap: 4px 24px; margin-bottom: 18px; font-size: 0.92rem; color: var(--soft); } .key b { color: var(--ink); }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.queries { margin-top: 18px; } .queries > h3 { padding: 18px 20px 12px; }
.queries table { table-layout: fixed; } .queries td { font-size: 0.9rem; overflow-wrap: anywhere; padding: 11px 20px; }
.queries th { padding-left: 20px; padding-right: 20px; }
.queries .query { width: 32%; } .queries .rank { width: 128px; white-space: nowrap; } .queries .change { width: 106px; }
.gain { color: var(--good); font-weight: 600; } .loss { color: var(--bad); font-weight: 600; }
pre { margin: 0; padding: 20px 22px; overflow-x: auto; font: 13.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; tab-size: 4; }
pre .k { color: var(--accent); } pre .c { color: var(--soft); }
.stack > * + * { margin-top: 18px; }
.stack h3 { padding: 18px 22px 0; } .stack pre { padding-top: 10px; }
details > summary { cursor: pointer; padding: 16px 20px; font-weight: 600; font-size: 0.98rem; }
details[open] > summary { border-bottom: 1px solid var(--rule); }
footer { margin-top: 64px; color: var(--soft); font-size: 0.86rem; border-top: 1px solid var(--rule); padding-top: 18px; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 6px; }
@media (max-width: 720px) { main { padding: 32px 16px 64px; } .verdict { grid-template-columns: 1fr; padding: 24px; } .verdict .score { font-size: 2.4rem; }
  .queries table { table-layout: auto; min-width: 640px; } figure { overflow-x: auto; } svg.wide { min-width: 620px; } }
@media print { main { max-width: none; padding: 0; } .card, figure, tr { break-inside: avoid; } details > pre { display: block; } }
"""
