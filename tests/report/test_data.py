"""Selections of a run's rows, measurements by replicate, and the one table with its three renderings."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

import sparselt.report
from sparselt.report.data import Data, once
from sparselt.report.results import Row, conditions
from sparselt.report.statistic import Values
from sparselt.report.table import Table


def row(replicate, level, value, condition="", metric="angle", variant="imp") -> Row:
    return Row("i", "mini", "own", variant, replicate, 60, level, 0.8**level, metric, value, condition=condition)


ROWS = [
    row(k, level, k + level / 10, c) for k in range(2) for level in (1, 2) for c in ("", "rate=low", "rate=low x=2")
]


def test_a_condition_selects_rows_whose_own_is_the_same_as_a_whole_in_any_order():
    data = Data([*ROWS, row(0, 3, 1.0, "x=2 rate=low")], {})
    assert [r.condition for r in data.select(condition={"rate": "low"})] == ["rate=low"] * 4
    assert {r.condition for r in data.select(condition={"x": "2", "rate": "low"})} == {"rate=low x=2", "x=2 rate=low"}
    assert all(not r.condition for r in data.select(condition={})) and len(data.select(condition={})) == 4
    assert data.select(condition=({}, {"rate": "low"}), level=1) == [
        r for r in ROWS if r.level == 1 and "x" not in r.condition
    ]
    assert data.select(experiment="another") == data.select(level=9) == []


def test_rows_of_several_variants_come_in_their_order():
    rows = [row(k, 1, 0.0, variant=variant) for k in range(3) for variant in ("imp", "random")]
    assert Data(rows, {}).select(variant=("random", "imp")) == rows


def test_values_are_grouped_by_columns_and_by_what_the_condition_says():
    found = Data(ROWS, {}).by("level", ".x", metric="angle", condition=({}, {"rate": "low", "x": "2"}))
    assert found == {
        (1, None): {0: 0.1, 1: 1.1},
        (1, "2"): {0: 0.1, 1: 1.1},
        (2, None): {0: 0.2, 1: 1.2},
        (2, "2"): {0: 0.2, 1: 1.2},
    }
    assert list(Data(ROWS, {}).by("level", condition={})) == [1, 2]
    assert Data(ROWS, {}).values(level=2, condition={}) == {0: 0.2, 1: 1.2}


def test_a_condition_of_a_users_file_that_is_not_name_and_value_is_read_all_the_same():
    assert conditions("odd rate=a=b") == {"odd": "", "rate": "a=b"}


def test_what_was_computed_from_a_run_is_kept_for_it_and_its_arguments():
    calls = []

    @once
    def number(data, name):
        calls.append(name)
        return len(data.rows)

    one, other = Data(ROWS, {}), Data([], {})
    assert [number(one, "a"), number(one, "a"), number(one, "b"), number(other, "a")] == [12, 12, 12, 0]
    assert calls == ["a", "b", "a"]


def test_values_subtract_in_the_replicates_that_both_have_and_write_themselves():
    values = Values({0: 0.01, 1: 0.03, 2: math.nan}) - Values({0: 0.0, 1: 0.0, 2: 0.0, 3: 1.0})
    assert values.finite == {0: 0.01, 1: 0.03} and values.mean == pytest.approx(0.02)
    assert f"{values:.1p}" == "2.0 ± 1.4" and f"{values:.0%}" == "2 ± 1%" and f"{Values({0: 2.0}):.2f}" == "2.00"
    assert f"{Values():.2f}" == f"{Values({0: math.nan}):.2f}" == "–"


def test_one_table_is_shown_in_markdown_and_in_the_terminal():
    table = Table(("name", "a", "b"), [("x|y", "1.0*", "2"), ("z", "3.0", "–")], text=1, groups=[("", 1), ("both", 2)])
    assert table.markdown() == "| name | a | b |\n| --- | --- | --- |\n| x\\|y | 1.0* | 2 |\n| z | 3.0 | – |"
    text = io.StringIO()
    Console(file=text, width=60, color_system=None).print(table.rich(most=1))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines[0] == ["both"] and lines[1] == ["name", "a", "b"] and lines[3] == ["x|y", "1.0*", "2"]
    assert "the first 1 of 2 lines" in " ".join(text.getvalue().split()) and "3.0" not in text.getvalue()


def test_the_renderer_imports_no_experiment():
    files = [*Path(sparselt.report.__file__).parent.glob("*.py")]
    assert len(files) > 10 and not [path.name for path in files if "sparselt.experiments" in path.read_text()]


def test_a_column_without_a_value_in_any_line_is_left_out_of_a_table():
    headings, lines = (
        ("level", "error", "barrier", "error", "barrier"),
        [("0", "1.0", "–", "2.0", ""), ("1", "–", *"–––")],
    )
    table = Table(headings, lines, text=1, groups=[("", 1), ("rewind 0", 2), ("rewind 60", 2)], faint=(1, 2, 3))
    left = table.without_empty_columns()
    assert list(left.headings) == ["level", "error", "error"] and left.lines == [("0", "1.0", "2.0"), ("1", "–", "–")]
    assert (left.text, left.groups, left.faint) == (1, [("", 1), ("rewind 0", 1), ("rewind 60", 1)], [1, 2])
    gone = Table(headings[:3], [("0", "–", "1.0")], text=2, groups=[("a", 2), ("b", 1)]).without_empty_columns()
    assert (list(gone.headings), gone.text, gone.groups) == (["level", "barrier"], 1, [("a", 1), ("b", 1)])
