"""The page of a run: one HTML file with everything in it, read on a screen of any width, dark or light, or on paper."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from sparselt.report.claims import claims, claims_table, not_judged
from sparselt.report.drawing import COLOURS, GREY, INK
from sparselt.report.empty_layers import empty_layers
from sparselt.report.figures import CORE, Drawn
from sparselt.report.findings import agreements, findings
from sparselt.report.others import others_html
from sparselt.report.page_style import STYLE
from sparselt.report.run import Cost, Run, costs
from sparselt.report.section import Data
from sparselt.report.sections import SECTIONS
from sparselt.report.summary import Summary, is_core
from sparselt.report.tables import html_tables
from sparselt.report.wording import count, duration, listing

UNMASKING = (
    "Paul, Chen, Larsen, Frankle, Ganguli and Dziugaite, Unmasking the Lottery Ticket Hypothesis: "
    "Efficient Adaptive Pruning for Finding Winning Tickets, 2022"
)


def page(run: Run, drawings: Mapping[str, Mapping[str, Drawn]]) -> str:
    """The HTML of a run; `drawings` is what figures.save_figures returned."""
    record, data = run.record, run.data
    title = record["title"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _notice(record),
        f"<p>{escape(statement(record))}</p>",
        *(_core(record, data.levels, drawings.get(CORE, {})) if any(map(is_core, run.rows)) else ()),
        claims_table(claims(data)),
        f'<p class="note">{escape(reason)}</p>' if (reason := not_judged(data)) else "",
        *(f'<p class="note">{escape(text)}</p>' for text in empty_layers(data)),
        *(_section(name, data, drawings.get(name, {})) for name in SECTIONS),
        others_html(run.rows, record),
        _protocol(record),
        _cost(run),
        _record(run),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _core(record: Mapping, levels: Summary, drawings: Mapping[str, Drawn]) -> Iterator[str]:
    """IMP, its controls and the lines between its levels."""
    yield _shows(record, levels)
    yield "<h2>Figures</h2>"
    yield from (_figure(name, drawing) for name, drawing in drawings.items())
    yield "" if drawings else "<p>The results hold nothing that a figure could show.</p>"
    yield "<h2>Every level</h2>"
    yield html_tables(levels)


def _notice(record: Mapping) -> str:
    if not record["synthetic"]:
        return ""
    return (
        '<p class="notice" role="note"><strong>The data is synthetic.</strong> It was made for this run '
        "and shows nothing real. The run checks that every stage works; its errors and barriers say nothing about "
        "lottery tickets, nor about the paper.</p>"
    )


def statement(record: Mapping) -> str:
    """One paragraph: what was run, on what data."""
    recipe = f"Setting {record['setting']}, scale {record['scale']}, after {record['paper'].rstrip('.')}."
    fraction, levels, steps = record.get("fraction"), record.get("levels"), record.get("steps")
    text = "Iterative magnitude pruning with weight rewinding"
    if isinstance(levels, int) and isinstance(fraction, int | float):
        text += f": {count(levels, 'level')}, each removing {100 * fraction:g}% of the weights that remain"
    if rewind_steps := record.get("rewind_steps"):
        text += f", rewound to step {listing([f'{step:,}' for step in rewind_steps])}"
        text += f" of {steps:,}" if isinstance(steps, int) else ""
    if isinstance(record.get("replicates"), int):
        text += f"; {count(record['replicates'], 'replicate')}"
    return f"{recipe} {text}. {record['data']}{_evaluation(record.get('evaluation'))}"


def _evaluation(protocol: Mapping | None) -> str:
    """How the test images came to the network, if the record says so (`sparselt.data.evaluation_record`)."""
    if not protocol:
        return ""
    if protocol["crop"] == "none":
        return f" Evaluated on {protocol['count']:,} test images as they are stored."
    return (
        f" Evaluated on {protocol['count']:,} test images, cropped to {protocol['crop']}, resized "
        f"{protocol['resize']} by {protocol['interpolation']}."
    )


def _shows(record: Mapping, levels: Summary) -> str:
    caution = (
        "<p>Read these as a check of the machinery, for the data is synthetic.</p>\n" if record["synthetic"] else ""
    )
    items = "\n".join(f"<li>{escape(text)}</li>" for text in findings(levels))
    return f"<h2>What this shows</h2>\n{caution}<ul>\n{items}\n</ul>\n{_agreement(levels)}"


def _agreement(levels: Summary) -> str:
    """Matching against connected, counted by rewind step."""
    found = agreements(levels)
    if not found:
        return ""
    names = ("both match, no barrier", "not both, barrier", "both match, barrier", "not both, no barrier")
    lines = [
        (f"{a.rewind_step:,}", *(str(len(cell)) for cell in cells))
        for a in found
        for cells in [(a.matching_connected, a.failing_separated, a.matching_separated, a.failing_connected)]
    ]
    note = (
        "Pairs of successive levels, level 0 apart. The first two columns agree with the paper's finding, the last two "
        "do not."
    )
    return _table(("rewound to", *names), lines) + f'<p class="note">{note}</p>'


def _section(name: str, data: Data, drawings: Mapping[str, Drawn]) -> str:
    """An experiment of its own: what it shows, and its figures."""
    if not data.select(experiment=name):
        return ""
    items = "\n".join(f"<li>{escape(text)}</li>" for text in SECTIONS[name].findings(data))
    figures = "\n".join(_figure(*drawing) for drawing in drawings.items())
    if not items and not figures:
        return ""
    return (
        f'<h2 id="{name}">{escape(SECTIONS[name].title)}</h2>\n'
        + (f"<ul>\n{items}\n</ul>\n" if items else "")
        + figures
    )


def _figure(name: str, drawing: Drawn) -> str:
    return (
        f'<figure id="{name}">\n{_inline(name, drawing.svg, drawing.heading)}\n'
        f"<figcaption><strong>{escape(drawing.heading)}.</strong> {escape(drawing.caption)}</figcaption>\n</figure>"
    )


def _inline(name: str, drawing: str, label: str) -> str:
    """An SVG file as part of a page: in the page's colours, without a preamble, with ids of its own."""
    svg = drawing[drawing.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', svg).group()
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(label)}" {size}>', svg, count=1)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the white sheet behind the figure
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg.replace(GREY, "var(--grey)").replace(INK, "currentColor").strip()


def _protocol(record: Mapping) -> str:
    lines = [[_plain(cell) for cell in line] for line in record.get("protocol", [])]
    return "<h2>Protocol</h2>\n" + _table(("what", "value", "source"), lines, text=(0, 1, 2)) if lines else ""


def _cost(run: Run) -> str:
    heading = "<h2>What it cost</h2>\n"
    if run.ledger is None:
        return heading + "<p>The folder holds no ledger.csv, so the cost is unknown.</p>"
    kinds = costs(run.ledger)
    lines = [_cost_line(cost) for cost in kinds]
    total, now = sum(cost.seconds for cost in kinds), sum(cost.seconds_now for cost in kinds)
    note = (
        f"{duration(total)} of work by single workers in all, of which {duration(now)} in the last call; the rest was "
        "found in the store, and is counted with what it cost when it was made."
    )
    names = ("stage", "ran", "found", "failed", "skipped", "done", "time", "in the last call")
    return heading + _table(names, lines) + f'<p class="note">{note}</p>'


def _cost_line(cost: Cost) -> list[str]:
    from sparselt.runs.kinds import KINDS

    title, unit = (KINDS[cost.kind].title, KINDS[cost.kind].counts) if cost.kind in KINDS else (cost.kind, "steps")
    numbers = [f"{number:,}" for number in (cost.ran, cost.found, cost.failed, cost.skipped)]
    return [title, *numbers, f"{cost.steps:,} {unit}", duration(cost.seconds), duration(cost.seconds_now)]


def _record(run: Run) -> str:
    record = run.record
    lines = [("command", record.get("command")), ("seed", record.get("seed")), ("device", record.get("device"))]
    lines += sorted((record.get("versions") or {}).items())
    table = _table(
        ("what", "value"), [(name, _plain(value)) for name, value in lines if value is not None], text=(0, 1)
    )
    names = ("results.csv", "results.json", "ledger.csv", "record.json", "figures")
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in names if (run.folder / name).exists())
    paper = f'<p class="note">Unmasking: {escape(UNMASKING)}.</p>'
    return f"<h2>Record</h2>\n{table}<p>Beside this page: {links}.</p>\n{paper}"


def _table(names: Sequence[str], lines: Iterable[Sequence[str]], text: Sequence[int] = (0,)) -> str:
    """A table of texts, escaped here; the columns in `text` stand left, numbers right."""

    def cell(tag: str, place: int, content: str) -> str:
        kind = ' class="text"' if place in text else ""
        return f"<{tag}{kind}>{escape(content)}</{tag}>"

    head = "".join(cell("th", place, name) for place, name in enumerate(names))
    rows = ["".join(cell("td", place, content) for place, content in enumerate(line)) for line in lines]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
