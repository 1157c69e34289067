"""Experiments that the report has no section for, the user's own above all: test errors and paths, plainly."""

from collections import defaultdict

from sparselt.report.data import Data, Sections
from sparselt.report.results import Row
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
    names = tuple({row.experiment for row in data.rows} - set(sections))
    trained: dict[tuple, list[Row]] = defaultdict(list)
    on_path: dict[tuple, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in data.select(experiment=names, metric=("test_error", "max_error", "barrier")):
        step = "–" if row.rewind_step is None else f"{row.rewind_step:,}"
        place, levels = (row.experiment, row.variant, row.condition, step), str(row.level)
        if row.metric == "test_error":
            trained[*place, levels].append(row)
        else:
            levels += "" if row.to_level is None else f"–{row.to_level}"
            on_path[*place, levels][row.metric].append(row)
    errors = [(*place, percent(rows[0].density), str(len(rows)), _number(rows)) for place, rows in trained.items()]
    paths = [
        (*place, str(max(map(len, found.values()))), _number(found["max_error"]), _number(found["barrier"]))
        for place, found in on_path.items()
    ]
    tables = [
        Table((*_PLACE, "level", "weights", "n", "error %"), errors, text=3),
        Table((*_PLACE, "levels", "n", "largest error %", "barrier %"), paths, text=3),
    ]
    return [table.without_empty_columns() for table in tables if table.lines]


def _number(rows: list[Row]) -> str:
    return mean_and_std(Statistic.of(row.value for row in rows)) if rows else "–"
