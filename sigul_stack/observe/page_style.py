"""The one style sheet of the bridge's page: it stands in the page, and nothing else is loaded.

Invariants: every colour of text has a contrast of 4.5 to 1 at least on what it stands on, light and
dark; nothing is told by colour alone; at 320 pixels and wider nobody scrolls sideways. A table
becomes cards on a narrow screen: its parts have roles in the page, for without the display of a
table browsers forget what they are.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #f5f4ef; --card: #fffefb; --ink: #1b2024; --soft: #586069; --line: #dedbd1;
  --accent: #0b5570; --range: #a6c8d4; --bad: #9c2410; --badpaper: #fcefeb; --good: #1b6239;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121517; --card: #1a1e21; --ink: #e8e9e7; --soft: #a3abb2; --line: #30363b;
    --accent: #86c8df; --range: #33596a; --bad: #ffa08c; --badpaper: #2b1a17; --good: #8bd6a8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.5rem; }
a { color: var(--accent); text-underline-offset: .2em; }
a:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; border-radius: 2px; }
h1 { margin: 0; font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; font-weight: 650;
  text-wrap: balance; letter-spacing: -.02em; }
h1 .sign { display: inline-block; margin-right: .4em; }
.good .sign { color: var(--good); }
.bad .sign { color: var(--bad); }
h2 { margin: 0 0 .75rem; font-size: 1.1rem; font-weight: 650; letter-spacing: -.005em; }
h3 { margin: 0; font-size: .95rem; font-weight: 600; }
.kind { margin: 0 0 .35rem; color: var(--soft); }
.about { margin: .7rem 0 0; color: var(--soft); font-size: .9rem; }
.about a { margin-left: .25rem; }
section { margin-top: 2.5rem; }
.unseen, .skip:not(:focus) { position: absolute; width: 1px; height: 1px; padding: 0;
  overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.pair { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.soft { color: var(--soft); }
.small { font-size: .85rem; }
.nothing { margin: 0; color: var(--soft); }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }

.glance { display: grid; gap: 1px; margin: 0; border: 1px solid var(--line);
  border-radius: .6rem; overflow: hidden; background: var(--line);
  grid-template-columns: repeat(6, minmax(0, 1fr)); }
.glance div { background: var(--card); padding: .9rem 1.1rem 1rem; }
.glance dt { color: var(--soft); font-size: .85rem; }
.glance dd { margin: 0; }
.glance .big { font-size: 1.7rem; line-height: 1.25; font-weight: 600; letter-spacing: -.02em; }
.glance .more { color: var(--soft); font-size: .85rem; }

.conditions { margin: 0; padding: 0; list-style: none; display: grid; gap: .75rem;
  grid-template-columns: minmax(0, 1fr); }
.conditions li { background: var(--badpaper); border-left: .3rem solid var(--bad);
  border-radius: .25rem .6rem .6rem .25rem; padding: .9rem 1.1rem; }
.conditions h3 { font-size: 1rem; }
.conditions p { margin: .25rem 0 0; }
.conditions b { font-weight: 600; }

.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .5rem .9rem; text-align: left; vertical-align: top; font-weight: 400; }
thead th { color: var(--soft); font-size: .8rem; padding-top: .7rem; white-space: nowrap; }
tbody tr { border-top: 1px solid var(--line); }
th.n, td.n { text-align: right; white-space: nowrap; }
td .under, th .under { display: block; color: var(--soft); font-size: .85rem; font-weight: 400; }
.whole { white-space: nowrap; }
.marked { color: var(--bad); font-weight: 600; }
.fine { color: var(--good); }
caption { text-align: left; padding: .7rem .9rem 0; color: var(--soft); font-size: .85rem; }

.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: .9rem 1.1rem; }
figure p { margin: .1rem 0 .7rem; display: flex; flex-wrap: wrap; gap: 0 .5rem;
  align-items: baseline; }
figure b { font-size: 1.5rem; line-height: 1.3; font-weight: 600; letter-spacing: -.02em; }
figure p span:last-child { flex: 0 0 100%; }
figure svg { display: block; width: 100%; height: auto; }
.ends { display: flex; justify-content: space-between; gap: 1rem; margin-top: .3rem;
  color: var(--soft); font-size: .8rem; }
.range { stroke: var(--range); }
.median { stroke: var(--accent); }
.base { stroke: var(--line); }
.all { fill: var(--line); }
.used { fill: var(--accent); }

.list { margin: 0; padding: .35rem 1.1rem; font-size: .9rem; }
.list div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  padding: .4rem 0; }
.list div + div { border-top: 1px solid var(--line); }
.list dd { margin: 0; text-align: right; }
.use { display: flex; gap: .75rem; align-items: center; }
.use span { min-width: 3.5rem; }
.use svg { width: 6rem; height: .5rem; }
.totals { columns: 20rem auto; column-gap: 2.5rem; }
.totals div { break-inside: avoid; border: 0 !important; }

footer { margin-top: 2.5rem; padding-bottom: 3rem; color: var(--soft); font-size: .85rem; }
footer p { margin: 0 0 .35rem; }

@media (max-width: 46rem) {
  header, main, footer { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.5rem; }
  section { margin-top: 2rem; }
  .glance div { padding: .7rem .9rem .8rem; }
  .glance .big { font-size: 1.4rem; }
  table, tbody, th, td, caption { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
    white-space: nowrap; }
  tbody tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem 1rem;
    padding: .8rem .9rem; }
  tbody tr:first-child { border-top: 0; }
  tbody th { grid-column: 1 / -1; padding: 0; font-weight: 600; }
  tbody td, tbody td.n { padding: 0; text-align: left; white-space: normal; }
  td .whole { white-space: normal; }
  tbody td::before { content: attr(data-label) / ""; display: block; color: var(--soft);
    font-size: .8rem; line-height: 1.3; }
}
@media (max-width: 60rem) { .glance { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 34rem) { .glance { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print {
  :root { --paper: #fff; --card: #fff; --badpaper: #fff; }
  header, main, footer { max-width: none; padding: 0; }
  tr, figure, .conditions li { break-inside: avoid; }
  .reload, .skip { display: none; }
}
"""
