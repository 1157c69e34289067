"""The table of a run, in the terminal and on the page: error per level and rewind step, barriers, controls."""

from collections.abc import Sequence
from html import escape

from sparselt.report.summary import LevelSummary, Summary
from sparselt.report.wording import DIVERGED_MARK, MATCHING_MARK, mean_and_std, percent, points

CONTROLS = {"random": "random mask", "reinit": "reinitialized"}
"""The controls by variant: the layerwise densities with a random mask; the IMP mask on fresh weights."""

_WIDE = 108  # columns from which standard deviations stand apart and barriers have theirs


def level_tables(summary: Summary, width: int = 80) -> list:
    """Rich tables of test error in % and barrier in points by level; as many rewind steps each as `width` holds."""
    wide = width >= _WIDE
    at_once = max(1, (width - 12) // (31 if wide else 20))
    steps = summary.rewind_steps
    groups = [steps[first : first + at_once] for first in range(0, len(steps), at_once)] or [()]
    return [_level_table(summary, group, wide) for group in groups]


def control_table(summary: Summary):
    """A rich table of the controls beside the tickets of the same density; None where no control was run."""
    lines = _control_lines(summary)
    if not lines:
        return None
    table = _rich_table()
    for heading in ("level", "weights", "rewind", *(f"{name}\nerror %" for name in _control_headings(summary))):
        table.add_column(heading, justify="right")
    for control, errors in lines:
        table.add_row(str(control.level), percent(control.density), _step(control), *errors)
    return table


def table_notes(summary: Summary) -> list[str]:
    """The sentences below the table: the dense error, what the marks mean, what cannot be judged."""
    notes = ["Mean ± standard deviation over replicates; the barrier is that to the next level."]
    if summary.dense is None:
        notes.append("There is no dense run, so matching cannot be judged.")
    elif summary.threshold is None:
        why = "some of them diverged" if summary.dense.diverged else f"n = {summary.dense.n}"
        notes.append(
            f"Dense test error {mean_and_std(summary.dense)}%. Matching cannot be judged: ε is the standard "
            f"deviation of the dense runs, which takes at least two ({why})."
        )
    else:
        notes.append(
            f"{MATCHING_MARK} matching: error at most {points(summary.threshold)}%, the dense mean "
            f"{points(summary.dense.mean)}% plus ε = {points(summary.epsilon)}, the standard deviation of "
            f"{summary.dense.n} dense runs."
        )
    if any(entry.error.diverged or (entry.barrier and entry.barrier.diverged) for entry in summary.levels):
        notes.append(
            f"{DIVERGED_MARK} some replicates diverged; the mean is over the others, and the level does not match."
        )
    return notes


def html_tables(summary: Summary) -> str:
    """The same as HTML: one table of levels and, where controls were run, one of the controls."""
    steps = summary.rewind_steps
    groups = "".join(f'<th colspan="2" scope="colgroup">rewound to {step:,}</th>' for step in steps)
    names = '<th scope="col">error %</th><th scope="col">barrier, points</th>' * len(steps)
    lines = []
    for level, density in _levels(summary):
        cells = "".join(_html_cells(_at(summary, step, level)) for step in steps)
        cells = cells if steps else f"<td>{mean_and_std(summary.dense)}</td>"
        lines.append(f'<tr><th scope="row">{level}</th><td>{percent(density)}</td>{cells}</tr>')
    head = '<tr><th scope="col">level</th><th scope="col">weights</th><th scope="col">dense, error %</th></tr>'
    if steps:
        first = '<th rowspan="2" scope="col">level</th><th rowspan="2" scope="col">weights</th>'
        head = f"<tr>{first}{groups}</tr><tr>{names}</tr>"
    notes = escape(" ".join(table_notes(summary)))
    return _html_table(head, lines) + f'<p class="note">{notes}</p>\n' + _html_controls(summary)


def _level_table(summary: Summary, steps: Sequence[int], wide: bool):
    table = _rich_table()
    table.add_column("level", justify="right")
    table.add_column("weights", justify="right")
    for step in steps:
        table.add_column(f"rewind {step}\nerror %", justify="right")
        table.add_column("\nbarrier", justify="right", style="dim")
    if not steps:
        table.add_column("dense\nerror %", justify="right")
    for level, density in _levels(summary):
        cells = [cell for step in steps for cell in _rich_cells(_at(summary, step, level), wide)]
        cells = cells if steps else [mean_and_std(summary.dense)]
        table.add_row(str(level), percent(density), *cells)
    return table


def _rich_table():
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)


def _rich_cells(entry: LevelSummary | None, wide: bool) -> tuple:
    from rich.text import Text

    if entry is None:
        return "– ", "–"
    mark = MATCHING_MARK if entry.matching else " "
    error = Text(mean_and_std(entry.error, tight=not wide) + mark, "bold green" if entry.matching else "")
    if wide or entry.barrier is None:
        return error, mean_and_std(entry.barrier, 1)
    return error, points(entry.barrier.mean, 1) + (DIVERGED_MARK if entry.barrier.diverged and entry.barrier.n else "")


def _html_cells(entry: LevelSummary | None) -> str:
    if entry is None:
        return "<td>–</td><td>–</td>"
    error, barrier = mean_and_std(entry.error), mean_and_std(entry.barrier, 1)
    if not entry.matching:
        return f"<td>{error}</td><td>{barrier}</td>"
    return f'<td class="matching">{error}<span class="mark">{MATCHING_MARK}</span></td><td>{barrier}</td>'


def _html_controls(summary: Summary) -> str:
    lines = _control_lines(summary)
    if not lines:
        return ""
    names = "".join(f'<th scope="col">{escape(name)}, error %</th>' for name in _control_headings(summary))
    head = f'<tr><th scope="col">level</th><th scope="col">weights</th><th scope="col">rewind</th>{names}</tr>'
    body = []
    for control, errors in lines:
        cells = "".join(f"<td>{cell}</td>" for cell in [percent(control.density), _step(control), *errors])
        body.append(f'<tr><th scope="row">{control.level}</th>{cells}</tr>')
    return "<h3>Controls</h3>\n" + _html_table(head, body)


def _html_table(head: str, lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>\n'


def _levels(summary: Summary) -> list[tuple[int, float]]:
    """Levels with their densities, from the dense network on."""
    return sorted({entry.level: entry.density for entry in reversed(summary.levels)}.items())


def _at(summary: Summary, step: int, level: int) -> LevelSummary | None:
    return next((entry for entry in summary.select("imp", step) if entry.level == level), None)


def _control_headings(summary: Summary) -> list[str]:
    return ["IMP", *(CONTROLS[variant] for variant in CONTROLS if summary.select(variant))]


def _control_lines(summary: Summary) -> list[tuple[LevelSummary, list[str]]]:
    """For each level and rewind step with a control: one control, and the errors under `_control_headings`."""
    variants = [variant for variant in CONTROLS if summary.select(variant)]
    places = {(e.level, e.rewind_step or 0): e for variant in variants for e in summary.select(variant)}
    lines = []
    for _, control in sorted(places.items()):
        at = {e.variant: e for e in summary.levels if (e.level, e.rewind_step) == (control.level, control.rewind_step)}
        cells = [at.get(variant) for variant in ("imp", *variants)]
        lines.append((control, [mean_and_std(cell.error if cell else None) for cell in cells]))
    return lines


def _step(entry: LevelSummary) -> str:
    return "–" if entry.rewind_step is None else f"{entry.rewind_step:,}"
