"""Experiments that the report has no section for, the user's own above all: test errors and paths, plainly."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sparselt.report.results import Row
from sparselt.report.sections import SECTIONS
from sparselt.report.summary import Statistic
from sparselt.report.wording import mean_and_std, percent

_HEADINGS = ("experiment", "variant", "condition", "rewind", "level", "weights", "n", "error %")
_PATH_HEADINGS = ("experiment", "variant", "condition", "rewind", "levels", "n", "largest error %", "barrier %")
_MOST_LINES = 40

Table = tuple[Sequence[str], Sequence[tuple[str, ...]]]
"""Headings and lines."""


def others_tables(rows: Iterable[Row]) -> list:
    """Rich tables of the test errors and of the paths of such experiments, mean ± standard deviation."""
    from rich import box
    from rich.table import Table

    found = []
    for headings, lines in _tables(rows):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="left" if place < 3 else "right")
        for line in lines[:_MOST_LINES]:
            table.add_row(*line)
        if len(lines) > _MOST_LINES:
            table.caption = f"the first {_MOST_LINES} of {len(lines)} lines"
        found.append(table)
    return found


def others_html(rows: Iterable[Row], record: Mapping) -> str:
    """The same as HTML under what the experiments call themselves; empty where there are none."""
    rows = list(rows)
    tables = _tables(rows)
    if not tables:
        return ""
    parts = ["<h2>Other experiments</h2>", *(f"<p>{escape(title)}</p>" for title in _titles(rows, record))]
    for headings, lines in tables:
        head = "".join(f'<th class="text">{name}</th>' for name in headings)
        body = "\n".join(
            "<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in line) + "</tr>" for line in lines
        )
        parts.append(
            f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
        )
    parts.append('<p class="note">Mean ± standard deviation over n replicates; results.csv holds the rest.</p>\n')
    return "\n".join(parts)


def others_markdown(rows: Iterable[Row], record: Mapping) -> str:
    """The same in Markdown; empty where there are none."""
    rows = list(rows)
    tables = _tables(rows)
    parts = [f"- {title}" for title in _titles(rows, record)] if tables else []
    for headings, lines in tables:
        table = [headings, ["---"] * len(headings), *lines]
        parts += ["", *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)]
    return "\n".join(parts).lstrip("\n")


def _tables(rows: Iterable[Row]) -> list[Table]:
    ours = [row for row in rows if row.experiment not in ("imp", "connectivity", *SECTIONS)]
    tables = [(_HEADINGS, _lines(ours)), (_PATH_HEADINGS, _path_lines(ours))]
    return [(headings, lines) for headings, lines in tables if lines]


def _titles(rows: Iterable[Row], record: Mapping) -> list[str]:
    """What each of them measures, in its own words, and whose it is."""
    known = record.get("experiments") or {}
    titles = []
    for name in dict.fromkeys(row.experiment for row in rows):
        if name in known and name not in ("imp", "connectivity", *SECTIONS):
            paper = f" ({known[name]['paper']})" if known[name]["paper"] else ""
            titles.append(f"{name}: {known[name]['title'] or 'its driver has no docstring'}{paper}")
    return titles


def _path_lines(rows: Iterable[Row]) -> Sequence[tuple[str, ...]]:
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.metric in ("max_error", "barrier"):
            place = (row.experiment, row.variant, row.condition, row.rewind_step, row.level, row.to_level)
            groups[place][row.metric].append(row.value)
    lines = []
    for (experiment, variant, condition, step, level, to_level), found in groups.items():
        numbers = [
            mean_and_std(Statistic.of(found[name])) if name in found else "–" for name in ("max_error", "barrier")
        ]
        count = max(map(len, found.values()))
        rewind = "–" if step is None else f"{step:,}"
        levels = str(level) if to_level is None else f"{level}–{to_level}"
        lines.append((experiment, variant, condition, rewind, levels, str(count), *numbers))
    return lines


def _lines(rows: Iterable[Row]) -> Sequence[tuple[str, ...]]:
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if row.metric == "test_error":
            groups[row.experiment, row.variant, row.condition, row.rewind_step, row.level].append(row)
    lines = []
    for (experiment, variant, condition, step, level), found in groups.items():
        error = Statistic.of([row.value for row in found])
        rewind = "–" if step is None else f"{step:,}"
        weights = percent(found[0].density)
        lines.append(
            (experiment, variant, condition, rewind, str(level), weights, str(len(found)), mean_and_std(error))
        )
    return lines
