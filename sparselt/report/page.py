"""The page of a run: one HTML file with everything in it, or its findings in Markdown; see `templates/`."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from typing import Any

from sparselt.report.charts import chart_json, packed_plotly
from sparselt.report.claims import claims, claims_table, counted, notes, standing
from sparselt.report.data import DEFAULT_SOURCES, Drawing, Sections, leads
from sparselt.report.drawing import COLOURS, GREY, INK
from sparselt.report.others import others_tables, others_titles
from sparselt.report.run import SAMPLES, Run, costs, statement
from sparselt.report.table import MARK, Table

PAPERS = {
    "Unmasking": ("Paul et al. 2022, Unmasking the Lottery Ticket Hypothesis", "2210.03044"),
    "Siblings": (
        "Movva et al. 2021, Studying the Consistency and Composability of Lottery Ticket Pruning Masks",
        "2104.14753",
    ),
    "Stabilizing": ("Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis", "1903.01611"),
    "Linear Mode Connectivity": (
        "Frankle et al. 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        "1912.05671",
    ),
    "Why Lottery Tickets Win": ("Maene et al. 2021, Towards Understanding Iterative Magnitude Pruning", "2106.06955"),
}
"""The papers whose findings a page judges: authors, year and title, and number on arXiv."""

GLOSSARY = {
    "ticket": "a mask with the weights that it was rewound to; winning, if it trains to a matching network",
    "level": "number of prunings; after L levels of 20%, 0.8^L of the weights remain",
    "weights remaining, density": "live weights over prunable weights",
    "rewinding": "setting live weights back to their values at an early step, the rewind step; 0 is initialization",
    "replicate": "a repetition in which everything random differs; ± is the standard deviation over replicates",
    "matching": "a mean test error of at most the dense network's plus ε, the standard deviation of dense errors",
    "error barrier": "how far the error on the straight line between two networks rises above the line between their "
    "errors (Paul et al. 2022, Def. A.1)",
    "points": "percentage points",
    "siblings": "networks from one start that differ in data order only",
    "LCS-set": "the networks that a straight line from w reaches without an error above E(w) + ε",
}
"""Words of the papers that a page uses."""

_LEAST_SCALE = 0.8  # pixels for each of a figure's points: narrower, its letters could not be read, so it scrolls

_FILES = ("results.csv", "results.json", "ledger.csv", "record.json", "figures")


def page(run: Run, sections: Sections, save: Callable[[Mapping[str, Drawing]], Mapping[str, str]]) -> str:
    """The HTML of a run. `save` saves its figures on the way, and gives the text of the SVG file of each."""

    def figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, Drawing, str, str]]:
        saved = save(drawings)
        return [
            (name, drawing, _inline(name, saved[name], drawing.heading), chart_json(drawing))
            for name, drawing in drawings.items()
        ]

    with ThreadPoolExecutor(1) as beside:  # compression lets this thread go on
        plotly = beside.submit(packed_plotly)
        data, contents = run.data, _contents(run, sections)
        lead_figures = [figures(lead.drawings(data)) for lead in contents["leads"]]
        of_sections = {name: figures(sections[name].drawings(data)) for name, *_ in contents["sections"]}
    charts = [chart for drawn in (*lead_figures, *of_sections.values()) for *_, chart in drawn if chart]
    protocol = [[_plain(cell) for cell in line] for line in run.record.get("protocol", [])]
    plain = [line for line in protocol if line[2] in DEFAULT_SOURCES]
    samples = run.folder / SAMPLES
    facts = [*contents["facts"], *contents["versions"]]
    html = _render(
        "page.html.j2",
        contents
        | {
            "MARK": MARK,
            "lead_figures": lead_figures,
            "figures": of_sections,
            "plotly": plotly.result() if charts else "",
            "protocol": _protocol(
                [line for line in protocol if line not in plain], "From the papers, their code, or ours"
            ),
            "defaults": _protocol(plain, "Plain defaults"),
            "samples": base64.b64encode(samples.read_bytes()).decode() if samples.exists() else "",
            "costs": None if run.ledger is None else costs(run.ledger),
            "facts": Table(("what", "value"), [(name, _plain(value)) for name, value in facts], text=2),
            "papers": PAPERS,
            "glossary": GLOSSARY,
            "files": [name for name in _FILES if (run.folder / name).exists()],
        },
    )
    return run.labelled(_with_contents(html))


def _protocol(lines: Sequence[Sequence[str]], title: str) -> Table:
    return Table(("what", "value", "source"), [tuple(line) for line in lines], text=3, title=title)


def markdown(
    run: Run, sections: Sections, save: Callable[[Mapping[str, Drawing]], None] | None = None, folder: str = ""
) -> str:
    """The findings of a run in Markdown, for a repository's docs.

    save: saves figures by name, as files `<folder>/<name>.png` beside the page. None: the page has no figures.
    """

    def figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, Drawing]]:
        if save is not None:
            save(drawings)
        return list(drawings.items())

    contents, data = _contents(run, sections), run.data
    shown = {
        "lead_figures": [figures(lead.drawings(data)) if save else [] for lead in contents["leads"]],
        "figures": {name: figures(sections[name].drawings(data)) if save else [] for name, *_ in contents["sections"]},
    }
    return run.labelled(_render("page.md.j2", contents | shown | {"folder": folder}))


def _contents(run: Run, sections: Sections) -> dict[str, Any]:
    """What both templates are filled with."""
    data, record = run.data, run.record
    found, not_judged = claims(data, sections)
    return {
        "data": data,
        "record": record,
        "statement": statement(record),
        "leads": leads(data, sections),
        "claims": claims_table(found),
        "verdicts": counted(found),
        "standing": standing(record) if found else "",
        "notes": notes(found, data),
        "not_judged": not_judged,
        "warnings": [text for section in sections.values() for text in section.warnings(data)],
        "sections": [
            (name, section.title, section.findings(data), section.tables(data))
            for name, section in sections.items()
            if data.select(experiment=name)
        ],
        "others": others_tables(data, sections),
        "others_titles": others_titles(data, sections),
        "facts": [(n, record[n]) for n in ("command", "seed", "device") if record.get(n) is not None],
        "versions": sorted((record.get("versions") or {}).items()),
    }


def _with_contents(html: str) -> str:
    """The page with an id at every heading and a list of links to them."""
    entries: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        given, title = found.groups()
        name = given or re.sub(r"\W+", "-", re.sub(r"&#?\w+;", "", title).lower()).strip("-")
        name = name if all(f'href="#{name}"' not in entry for entry in entries) else f"{name}-{len(entries)}"
        entries.append(f'<li><a href="#{name}">{title}</a></li>')
        return f'<h2 id="{name}">{title}</h2>'

    html = re.sub(r'<h2(?: id="([^"]*)")?>(.*?)</h2>', numbered, html)
    return html.replace("<!-- contents -->", "<ul>\n" + "\n".join(entries) + "\n</ul>", 1)


def _render(template: str, contents: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    how: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    how |= {"undefined": StrictUndefined, "autoescape": template.endswith(".html.j2")}
    environment = Environment(loader=PackageLoader("sparselt.report"), **how)
    return environment.get_template(template).render(contents)


def _inline(name: str, drawing: str, label: str) -> str:
    """An SVG file as part of a page: in the page's colours, without a preamble, with ids of its own."""
    svg = drawing[drawing.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    size, width = re.findall(r'(viewBox="0 0 ([\d.]+) [^"]*")', svg)[0]
    least = f'style="min-width: {_LEAST_SCALE * float(width):.0f}px"'
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(label)}" {size} {least}>', svg, count=1)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the white sheet behind the figure
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg.replace(GREY, "var(--grey)").replace(INK, "currentColor").strip()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
