"""Tests of claims over replicates, and how claims are shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselt.errors import SettingError, StoreError
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import write_markdown, write_report
from sparselt.report.claims import claims_table
from sparselt.report.data import Claim, Section
from sparselt.report.inference import equivalent, paired
from sparselt.report.results import condition_text, conditions

numbers = st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=8, unique=True)


def test_paired_t_is_that_of_a_textbook():
    # Student 1908, table of hours of sleep gained under two drugs, as printed by Fisher 1925, section 24: t = 4.06.
    first = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))
    second = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
    found = paired(first, second)
    assert found.text == "paired t(9) = 4.06" and found.n == 10
    assert found.p == pytest.approx(0.00283, abs=1e-5) and found.mean == pytest.approx(1.58)


@given(numbers, numbers)
def test_swapping_the_sides_mirrors_the_test(first, second):
    first, second = (dict(enumerate(values)) for values in (first, second))
    there, back = paired(first, second, "greater"), paired(second, first, "less")
    assert there.p == pytest.approx(back.p) and there.mean == pytest.approx(-back.mean)


@given(numbers)
def test_equal_sides_are_equivalent_within_any_margin_and_different_by_no_test(values):
    same = dict(enumerate(values))
    assert equivalent(same, same, 0.01).p == 0.5 ** len(values) and paired(same, same).p == 1.0


def test_a_difference_beyond_the_margin_is_not_equivalence():
    first, second = {0: 0.10, 1: 0.12, 2: 0.11}, {0: 0.05, 1: 0.06, 2: 0.07}
    assert equivalent(first, second, 0.01).p > 0.9 and equivalent(first, second, 0.2).p < 0.01


def test_replicates_that_diverged_or_stand_alone_are_left_out():
    assert paired({0: 1.0, 1: 2.0, 2: math.nan, 3: 5.0}, {0: 0.0, 1: 0.5, 2: 1.0, 4: 1.0}).n == 2
    assert equivalent({0: 1.0, 1: 2.0, 2: math.nan}, {0: 1.0, 1: 2.1, 2: 1.0}, 1.0).n == 2


def test_too_few_replicates_and_a_margin_of_nothing_are_refused():
    with pytest.raises(SettingError, match="at least two replicates, got 1"):
        paired({0: 1.0}, {0: 2.0})
    with pytest.raises(SettingError, match="margin is 0"):
        equivalent({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, 0)


def test_without_spread_the_signs_are_tested():
    low = {0: 0.1, 1: 0.3, 2: 0.7}
    high = {k: value + 0.2 for k, value in low.items()}  # apart by 0.2, but for the last bit
    found = paired(high, low, "greater")
    assert found.text == "sign test, no spread" and found.p == 0.125
    assert paired(high, low).p == 0.25 and paired(low, low).p == 1.0
    assert paired(high, low, "less").p == paired(low, low, "less").p == 1.0


def test_claims_are_escaped_on_the_page_and_in_markdown(tmp_path, invent):
    def page_of(claim):
        section = Section("Invented", lambda data: {}, lambda data: [], lambda data: [claim])
        return write_report(invent.run(tmp_path, invent.rows(levels=1)), {"imp": section}).read_text()

    claim = Claim("A & B 2021", "x < y", "1.0 | 2.0", "paired t(4) = 3.1", 5, 0.036, "agrees")
    assert "A &amp; B 2021" in page_of(claim) and "x &lt; y" in page_of(claim)
    line = claims_table([claim]).markdown().splitlines()[2]
    assert "1.0 \\| 2.0" in line and "n = 5, p = 0.036" in line and line.endswith("| agrees |")
    assert claims_table([]).lines == []


def test_a_condition_is_read_by_name():
    read = conditions("batch_size=32 lr=0.1")
    assert read["lr"] == "0.1" and "batch_size" not in conditions("lr=0.1") and not conditions("")
    assert condition_text(read) == "batch_size=32 lr=0.1"


def test_the_markdown_page_is_made_from_the_run_and_leaves_nothing_where_it_cannot_be_written(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=2))
    write_markdown(folder, tmp_path / "page.md", sections_of(EXPERIMENTS))
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# ") and "## What the run shows" in text and "Rewound to step 60" in text
    for bad in (tmp_path / "missing" / "page.md", tmp_path):
        with pytest.raises(StoreError):
            write_markdown(folder, bad, sections_of(EXPERIMENTS))
    assert not (tmp_path / "missing").exists()
    kept = (folder / "results.csv").read_bytes()
    with pytest.raises(StoreError, match="is a file of the run itself"):
        write_markdown(folder, folder / "results.csv", sections_of(EXPERIMENTS))
    assert (folder / "results.csv").read_bytes() == kept
