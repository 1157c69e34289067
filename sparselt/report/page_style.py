"""The style sheet of the page: one column of text, tables that scroll inside themselves, light, dark and print."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1b; --faint: #5d5d62; --line: #c9c9ce; --paper: #fff; --match: #00684c;
  --notice: #fff1d6; --notice-line: #b35c00; --grey: #747475; --series-0: #d55e00; --series-1: #0072b2;
  --series-2: #008560; --series-3: #b5598d; --series-4: #b57a00; --series-5: #2b8fc9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e8; --faint: #a5a5ac; --line: #47474d; --paper: #151517;
  --match: #5fd3ae; --notice: #3a2a10; --notice-line: #e69f00; --grey: #9a9aa0; --series-0: #f0813a;
  --series-1: #5fb0ea; --series-2: #2cc295; --series-3: #dc8fbc; --series-4: #e6b040; --series-5: #8fd0f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 50rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, ul { margin: 0.75rem 0; }
ul { padding-left: 1.2rem; }
li { margin: 0.4rem 0; }
a { color: inherit; }
figure { margin: 0 0 2.25rem; }
figure svg { display: block; width: 100%; max-width: 44rem; height: auto; }
figcaption, .note { color: var(--faint); font-size: 0.875rem; max-width: 44rem; }
.notice { background: var(--notice); border-left: 4px solid var(--notice-line); padding: 0.75rem 1rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; line-height: 1.35; }
th, td { padding: 0.2rem 0 0.2rem 1.1rem; text-align: right; vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead tr:last-child th, thead th[rowspan] { border-bottom: 1px solid var(--ink); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
thead tr + tr th:first-child { padding-left: 1.1rem; }
th[colspan] { text-align: right; padding-bottom: 0; }
.text { text-align: left; }
.matching { color: var(--match); font-weight: 600; position: relative; }
td { white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
td.text:first-child { overflow-wrap: normal; }
.mark { position: absolute; }
@media print {
  :root { color-scheme: light; --ink: #000; --faint: #333; --line: #bbb; --paper: #fff; --match: #000; --notice: #fff;
    --grey: #747475;
    --series-0: #d55e00; --series-1: #0072b2; --series-2: #008560; --series-3: #b5598d; --series-4: #b57a00;
    --series-5: #2b8fc9; }
  main { max-width: none; padding: 0; }
  figure, tr, .notice { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 0.75rem; }
  th, td { padding-left: 0.6rem; }
}
"""
