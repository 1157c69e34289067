"""The page of a run: one HTML file with everything in it, or its findings in Markdown; see `templates/`."""

import json
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from sparselt.report.claims import claims, claims_table, notes, standing
from sparselt.report.data import Drawing, Sections
from sparselt.report.drawing import COLOURS, GREY, INK
from sparselt.report.others import others_tables, others_titles
from sparselt.report.run import Run, costs, statement
from sparselt.report.table import MARK, Table

_FILES = ("results.csv", "results.json", "ledger.csv", "record.json", "figures")


def page(run: Run, sections: Sections, save: Callable[[Mapping[str, Drawing]], Mapping[str, str]]) -> str:
    """The HTML of a run. `save` saves its figures on the way, and gives the text of the SVG file of each."""

    def figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, Drawing, str]]:
        saved = save(drawings)
        return [(name, drawing, _inline(name, saved[name], drawing.heading)) for name, drawing in drawings.items()]

    data, contents = run.data, _contents(run, sections)
    protocol = [[_plain(cell) for cell in line] for line in run.record.get("protocol", [])]
    facts = [*contents["facts"], *contents["versions"]]
    html = _render(
        "page.html.j2",
        contents
        | {
            "MARK": MARK,
            "lead_figures": [figures(lead.drawings(data)) for lead in contents["leads"]],
            "figures": {name: figures(sections[name].drawings(data)) for name, *_ in contents["sections"]},
            "protocol": Table(("what", "value", "source"), protocol, text=3),
            "costs": None if run.ledger is None else costs(run.ledger),
            "facts": Table(("what", "value"), [(name, _plain(value)) for name, value in facts], text=2),
            "files": [name for name in _FILES if (run.folder / name).exists()],
        },
    )
    return run.labelled(html)


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
        "leads": [section.lead for section in sections.values() if section.lead and section.lead.concerns(data)],
        "claims": claims_table(found),
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
    size = re.findall(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(label)}" {size}>', svg, count=1)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the white sheet behind the figure
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg.replace(GREY, "var(--grey)").replace(INK, "currentColor").strip()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
