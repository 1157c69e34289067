"""The page of a run: one HTML file with everything in it, read on a screen of any width, dark or light, or on paper."""

import json
import re
from collections.abc import Callable, Mapping
from html import escape

from sparselt.report.claims import claims, claims_table
from sparselt.report.data import Drawing, Sections
from sparselt.report.drawing import COLOURS, GREY, INK
from sparselt.report.others import others_tables, others_titles
from sparselt.report.run import Run, costs, statement
from sparselt.report.table import MARK, Table

Save = Callable[[Mapping[str, Drawing]], Mapping[str, str]]
"""Saves drawings; the text of the SVG file of each."""

_FILES = ("results.csv", "results.json", "ledger.csv", "record.json", "figures")


def page(run: Run, sections: Sections, save: Save) -> str:
    """The HTML of a run, whose figures are saved on the way."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, Drawing, str]]:
        saved = save(drawings)
        return [(name, drawing, _inline(name, saved[name], drawing.heading)) for name, drawing in drawings.items()]

    data, record = run.data, run.record
    leads = [section.lead for section in sections.values() if section.lead and section.lead.concerns(data)]
    measured = {name: section for name, section in sections.items() if data.select(experiment=name)}
    found, not_judged = claims(data, sections)
    facts = [(name, record.get(name)) for name in ("command", "seed", "device")]
    facts += sorted((record.get("versions") or {}).items())
    protocol = [[_plain(cell) for cell in line] for line in record.get("protocol", [])]
    environment = Environment(
        loader=PackageLoader("sparselt.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        MARK=MARK,
        record=record,
        statement=statement(record),
        leads=[
            (lead.findings(data), lead.counts(data), figures(lead.drawings(data)), lead.tables(data, None))
            for lead in leads
        ],
        claims=claims_table(found),
        not_judged=not_judged,
        warnings=[text for section in sections.values() for text in section.warnings(data)],
        sections=[
            (name, section.title, section.findings(data), figures(section.drawings(data)), section.tables(data))
            for name, section in measured.items()
        ],
        others=others_tables(data, sections),
        others_titles=others_titles(data, sections),
        protocol=Table(("what", "value", "source"), protocol, text=3),
        costs=None if run.ledger is None else costs(run.ledger),
        facts=Table(("what", "value"), [(k, _plain(value)) for k, value in facts if value is not None], text=2),
        files=[name for name in _FILES if (run.folder / name).exists()],
    )


def _inline(name: str, drawing: str, label: str) -> str:
    """An SVG file as part of a page: in the page's colours, without a preamble, with ids of its own."""
    svg = drawing[drawing.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    size = re.findall(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(label)}" {size}>', svg, count=1)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the white sheet behind the figure
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg.replace(GREY, "var(--grey)").replace(INK, "currentColor").strip()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
