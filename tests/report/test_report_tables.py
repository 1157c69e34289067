"""The terminal table: what it shows and that it fits; how numbers read; labels that do not collide."""

import io
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import console_summary, write_report
from sparselt.report.drawing import _apart
from sparselt.report.wording import count, duration, every, in_unit, listing, of_pairs, percent, points, ranges, verb


def printed(folder, width):
    text = io.StringIO()
    console_summary(folder, Console(file=text, width=width, color_system=None), sections_of(EXPERIMENTS))
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("rewind_steps", [(0, 60, 200), (0, 1250, 5000), (0, 20, 60, 200, 400)])
def test_table_fits_the_terminal_and_shows_every_rewind_step(tmp_path, invent, width, rewind_steps):
    folder = invent.run(tmp_path, invent.rows(rewind_steps=rewind_steps, replicates=2))
    text = printed(folder, width)
    table = text.partition("Mean ± standard deviation")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in text
    for step in rewind_steps:
        assert f"rewind {step}" in table


def test_table_marks_what_matches_and_lists_the_controls_and_the_files(reported):
    text = printed(reported, 120)
    lines = text.splitlines()
    first = next(line for line in lines if line.split()[:2] == ["1", "80.0%"])
    assert first.count("*") == 2  # rewind 60 and 200; rewind 0 does not match
    heading = next(
        place for place, line in enumerate(lines) if line.split() == ["IMP", "random", "mask", "reinitialized"]
    )
    assert [line.split()[0] for line in lines[heading + 3 : heading + 7]] == ["3", "6", "9", "12"]
    assert "* matching: error at most" in text
    for name in ("report.html", "figures", "results.csv", "results.json", "ledger.csv"):
        assert str(reported / name) in lines


def test_table_of_one_replicate_says_that_matching_cannot_be_judged(tmp_path, invent):
    text = " ".join(printed(invent.run(tmp_path, invent.rows(replicates=1)), 80).split())
    assert "Matching cannot be judged" in text and "(n = 1)" in text
    assert "*" not in text and "±" not in text.replace("Mean ± standard", "")


def test_table_marks_diverged_replicates_and_synthetic_data(tmp_path, invent):
    rows = [row | {"value": math.nan} if row["level"] == 2 and row["replicate"] == 0 else row for row in invent.rows()]
    text = printed(invent.run(tmp_path, rows, invent.record(synthetic=True)), 120)
    assert "†" in next(line for line in text.splitlines() if line.split()[:2] == ["2", "64.0%"])
    assert "† some replicates diverged" in text
    assert "The data is synthetic" in text


def test_table_of_a_dense_run_alone_shows_its_error(tmp_path, invent):
    rows = [row for row in invent.rows() if row["variant"] == "dense"]
    text = printed(invent.run(tmp_path, rows), 80)
    assert ["0", "100%", "1.20", "±", "0.23"] in map(str.split, text.splitlines())


def test_numbers_read_as_in_the_papers():
    assert [percent(0.8**level) for level in (0, 1, 8, 12, 15)] == ["100%", "80.0%", "16.8%", "6.87%", "3.52%"]
    assert [percent(0.09996), percent(0.00012345), percent(0.0)] == ["10.0%", "0.0123%", "0%"]
    assert [points(0.01234), points(0.5, 1), points(math.nan)] == ["1.23", "50.0", "diverged"]
    assert [listing([]), listing([0]), listing([0, 60]), listing([0, 60, 200])] == [
        "none",
        "0",
        "0 and 60",
        "0, 60 and 200",
    ]
    assert ranges([1, 2, 3, 5, 8, 9]) == "1–3, 5, 8–9"
    assert [count(1, "level"), count(62400, "step")] == ["1 level", "62,400 steps"]
    assert [duration(0.44), duration(59.4), duration(59.6), duration(725), duration(12000)] == [
        "0.4 s",
        "59 s",
        "1 min 00 s",
        "12 min 05 s",
        "3 h 20 min",
    ]


def test_pairs_are_counted_by_matching_and_by_what_they_are():
    assert of_pairs(3, 4, "inside", 1, 1, "outside") == "of 4 pairs that match 3 inside, of 1 that does not 1 outside"
    assert of_pairs(2, 4, "inside", 0, 0, "outside") == "of 4 pairs that match 2 inside, and every pair matches"
    assert of_pairs(0, 0, "inside", 2, 3, "outside") == "no pair matches, of 3 that do not 2 outside"


def test_words_follow_their_number():
    assert [every(1, "pair"), every(12, "pair")] == ["the only pair", "all 12 pairs"]
    assert [verb(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
    assert [in_unit(1, "masks"), in_unit(2, "masks"), in_unit(62400, "steps")] == ["1 mask", "2 masks", "62,400 steps"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted), st.floats(0.01, 0.2))
def test_labels_move_apart_and_only_where_they_must(places, gap):
    moved = _apart(places, gap)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(moved))
    assert sum(moved) == pytest.approx(sum(places))
    if all(after - before >= gap for before, after in pairwise(places)):
        assert moved == pytest.approx(places)


def test_the_table_of_a_run_without_barriers_has_no_column_for_them(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=2, replicates=2, connectivity=False))
    text, page = printed(folder, 100), write_report(folder, sections_of(EXPERIMENTS)).read_text()
    heading = next(line for line in text.splitlines() if line.startswith("level"))
    assert heading.split() == ["level", "weights", *["error", "%"] * 3]
    assert "the barrier is that to the next level" not in text and ">barrier, points<" not in page
    with_barriers = invent.run(tmp_path / "both", invent.rows(levels=2, replicates=2))
    assert "the barrier is that to the next level, in points." in " ".join(printed(with_barriers, 100).split())
    assert "barrier" in next(line for line in printed(with_barriers, 100).splitlines() if line.startswith("level"))
