"""results.csv and results.json: what is written reads back, and what is malformed is refused with its place."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.errors import SparseltError
from sparselt.report.results import COLUMNS, read_results, write_results

GOOD = "digits,paper,imp,imp,0,60,1,0.8,test_error,0.02,,,,"


def write_lines(folder, *lines):
    (folder / "results.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return folder


def values_of(row):
    return [repr(getattr(row, name)) for name in COLUMNS]


@given(st.lists(st.floats(), min_size=1, max_size=20), st.randoms())
@settings(max_examples=30)
def test_every_value_reads_back_and_the_order_of_rows_leaves_the_bytes_alone(tmp_path_factory, values, shuffler):
    rows = [
        dict(zip(COLUMNS, ("a, b", 'sc"ale', "imp", "imp", k, 60, 1, 0.8, "test_loss", value), strict=False))
        for k, value in enumerate(values)
    ]
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, rows, {"seed": 0})
    first = [(folder / name).read_bytes() for name in ("results.csv", "results.json")]
    assert [repr(row.value) for row in read_results(folder)] == [repr(value) for value in values]
    shuffler.shuffle(rows)
    write_results(folder, rows, {"seed": 0})
    assert [(folder / name).read_bytes() for name in ("results.csv", "results.json")] == first
    assert sorted(path.name for path in folder.iterdir()) == ["results.csv", "results.json"]


def test_json_holds_the_record_and_the_rows_of_the_table(tmp_path, invent):
    rows = invent.rows(levels=2, replicates=2)
    random.Random(1).shuffle(rows)
    rows[0] = rows[0] | {"value": math.nan}
    write_results(tmp_path, rows, invent.record())
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert written["record"] == invent.record()
    assert [list(row) for row in written["results"]] == [list(COLUMNS)] * len(rows)
    for row, line in zip(read_results(tmp_path), written["results"], strict=True):
        expected = {name: getattr(row, name) for name in COLUMNS}
        assert line == (expected if math.isfinite(row.value) else expected | {"value": None})
    assert sum(line["value"] is None for line in written["results"]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (GOOD.replace("0.02,,", "0.02,"), "13 cells; expected 14"),
        (GOOD.replace("0.02", "two"), "value is 'two'; expected a number"),
        (GOOD.replace("0.02", ""), "value is empty"),
        (GOOD.replace("0.02", "2.0"), "test_error 2.0 is outside [0, 1]"),
        (GOOD.replace(",60,", ",60.5,"), "rewind_step is '60.5'; expected an integer"),
        (GOOD.replace(",60,1,", ",60,-1,"), "level -1 is negative"),
        (GOOD.replace("0.8", "80"), "density 80.0 is outside (0, 1]"),
        (GOOD.replace("0.8", "nan"), "density nan is outside (0, 1]"),
        (GOOD.replace("test_error,0.02,,,,", "path_error,0.02,2,1.5,,"), "position 1.5 is outside [0, 1]"),
        (GOOD.replace("digits", ""), "setting is empty"),
        (GOOD.replace("test_error", "test_loss"), "measured a second time"),
        ('"' + GOOD, "expected comma-separated values"),
    ],
)
def test_malformed_line_is_refused_with_file_and_line(tmp_path, line, says):
    write_lines(tmp_path, GOOD.replace("test_error", "test_loss"), line)
    with pytest.raises(SparseltError) as refused:
        read_results(tmp_path)
    assert f"{tmp_path / 'results.csv'}, line 3" in str(refused.value)
    assert says in str(refused.value)


def test_file_that_is_missing_empty_or_of_other_columns_is_refused(tmp_path):
    with pytest.raises(SparseltError, match="does not exist"):
        read_results(tmp_path)
    write_lines(tmp_path)
    with pytest.raises(SparseltError, match="holds no measurement"):
        read_results(tmp_path)
    for text in ("", "setting,scale\n", "\n" + GOOD):
        (tmp_path / "results.csv").write_text(text)
        with pytest.raises(SparseltError, match="line 1: columns"):
            read_results(tmp_path)
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(SparseltError, match="not text in UTF-8"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": 1.4}, "row 1 .*: test_error 1.4 is outside"),
        ({"value": "?"}, "row 1 .*: value is '?'"),
        ({"level": 1.5}, "row 1 .*: level is 1.5; expected an integer"),
        ({"epoch": 3}, "row 1 .*: unknown column 'epoch'"),
        ({"replicate": 0}, "row 1: test_error of .* occurs a second time"),
    ],
)
def test_rows_that_would_not_read_back_are_not_written(tmp_path, change, says):
    row = dict(zip(COLUMNS, ("digits", "paper", "imp", "dense", 0, None, 0, 1.0, "test_error", 0.014), strict=False))
    with pytest.raises(SparseltError, match=says):
        write_results(tmp_path, [row, row | {"replicate": 1} | change], {})
    with pytest.raises(SparseltError, match="record does not fit JSON"):
        write_results(tmp_path, [row], {"seed": math.nan})
    with pytest.raises(SparseltError, match="no row to write"):
        write_results(tmp_path, [], {})
    assert not list(tmp_path.iterdir())


def test_folder_that_does_not_exist_is_named(tmp_path, invent):
    with pytest.raises(SparseltError, match=r"absent.results.csv cannot be written: No such file"):
        write_results(tmp_path / "absent", invent.rows(levels=1), {})
