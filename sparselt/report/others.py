"""Experiments that the report has no section for, the user's own above all: test errors, plainly."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from sparselt.report.results import Row
from sparselt.report.sections import SECTIONS
from sparselt.report.summary import Statistic
from sparselt.report.wording import mean_and_std, percent

_HEADINGS = ("experiment", "variant", "condition", "rewind", "level", "weights", "n", "error %")
_MOST_LINES = 40


def others_table(rows: Iterable[Row]):
    """A rich table of the test errors of such experiments, mean ± standard deviation; None where there are none."""
    lines = _lines(rows)
    if not lines:
        return None
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if place < 3 else "right")
    for line in lines[:_MOST_LINES]:
        table.add_row(*line)
    if len(lines) > _MOST_LINES:
        table.caption = f"the first {_MOST_LINES} of {len(lines)} lines"
    return table


def others_html(rows: Iterable[Row]) -> str:
    """The same as HTML; empty where there are none."""
    lines = _lines(rows)
    if not lines:
        return ""
    head = "".join(f'<th class="text">{name}</th>' for name in _HEADINGS)
    body = "\n".join(
        "<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in line) + "</tr>" for line in lines
    )
    return (
        "<h2>Other experiments</h2>\n"
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
        '<p class="note">Mean ± standard deviation over n replicates; results.csv holds the rest.</p>\n'
    )


def others_markdown(rows: Iterable[Row]) -> str:
    """The same as a Markdown table; empty where there are none."""
    lines = _lines(rows)
    if not lines:
        return ""
    table = [_HEADINGS, ["---"] * len(_HEADINGS), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)


def _lines(rows: Iterable[Row]) -> Sequence[tuple[str, ...]]:
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if row.metric == "test_error" and row.experiment not in ("imp", "connectivity", *SECTIONS):
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
