"""Experiments that the report has no section for, the user's own above all: test errors and paths, plainly."""

from collections import defaultdict

from sparselt.report.data import Data, Sections
from sparselt.report.statistic import Statistic
from sparselt.report.table import Table
from sparselt.report.wording import mean_and_std, percent

_PLACE = ("experiment", "variant", "condition", "rewind")


def others_titles(data: Data, sections: Sections) -> list[str]:
    """What each of them measures, in its own words, and whose it is."""
    known = data.record.get("experiments") or {}
    titles = []
    for name in dict.fromkeys(row.experiment for row in data.rows):
        if name in known and name not in sections:
            paper = f" ({known[name]['paper']})" if known[name]["paper"] else ""
            titles.append(f"{name}: {known[name]['title'] or 'its driver has no docstring'}{paper}")
    return titles


def others_tables(data: Data, sections: Sections) -> list[Table]:
    """Tables of their test errors and of their paths, mean ± standard deviation; none where there are none."""
    ours: dict[bool, dict[tuple, dict[str, list]]] = {side: defaultdict(lambda: defaultdict(list)) for side in (0, 1)}
    for row in data.rows:
        on_path = row.metric in ("max_error", "barrier")
        if row.experiment not in sections and (on_path or row.metric == "test_error"):
            place = (row.experiment, row.variant, row.condition, row.rewind_step, row.level)
            ours[on_path][(*place, row.to_level) if on_path else place][row.metric].append(row)
    errors, paths = [], []
    for (*place, step, level), found in ours[False].items():
        rows = found["test_error"]
        cells = str(level), percent(rows[0].density), str(len(rows)), _number(rows)
        errors.append((*place, _step(step), *cells))
    for (*place, step, level, to_level), found in ours[True].items():
        levels = str(level) if to_level is None else f"{level}–{to_level}"
        numbers = [_number(found.get(name, ())) for name in ("max_error", "barrier")]
        paths.append((*place, _step(step), levels, str(max(map(len, found.values()))), *numbers))
    tables = [
        Table((*_PLACE, "level", "weights", "n", "error %"), errors, text=3),
        Table((*_PLACE, "levels", "n", "largest error %", "barrier %"), paths, text=3),
    ]
    return [table for table in tables if table.lines]


def _step(step: int | None) -> str:
    return "–" if step is None else f"{step:,}"


def _number(rows) -> str:
    return mean_and_std(Statistic.of(row.value for row in rows)) if rows else "–"
