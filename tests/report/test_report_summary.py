"""The numbers of the report against hand computation, and the edges of matching."""

import math

import pytest

from sparselt.experiments.imp import lead
from sparselt.experiments.imp import levels as imp_levels
from sparselt.report.data import Data
from sparselt.report.results import Row


def summary(rows):
    return imp_levels.levels(Data(rows, {}))


def agreements(rows):
    return imp_levels.agreements(Data(rows, {}))


def findings(rows):
    return lead.findings(Data(rows, {}))


def error(value, replicate=0, level=0, step=None, variant=None):
    variant = variant or ("dense" if step is None else "imp")
    return Row("digits", "paper", "imp", variant, replicate, step, level, 0.8**level, "test_error", value)


def barrier(value, level, step=60, replicate=0):
    return Row(
        "digits", "paper", "connectivity", "imp", replicate, step, level, 0.8**level, "barrier", value, level + 1, None
    )


DENSE = [error(0.010, 0), error(0.014, 1), error(0.018, 2)]  # mean 0.014, standard deviation 0.004


def at(levels, step, level, variant="imp"):
    return next(entry for entry in levels.select(variant, step) if entry.level == level)


def test_mean_deviation_and_matching_are_those_computed_by_hand():
    rows = [
        *DENSE,
        error(0.015, 0, 1, 60),
        error(0.021, 1, 1, 60),
        error(0.018, 2, 1, 60),
        barrier(0.3, 0),
        barrier(0.5, 0, replicate=1),
    ]
    rows += [error(0.02, 0, 1, 60, "random"), error(0.04, 1, 1, 60, "random")]
    levels = summary(rows)
    assert (levels.dense.n, levels.dense.mean) == (3, pytest.approx(0.014))
    assert levels.epsilon == pytest.approx(0.004)
    assert levels.threshold == pytest.approx(0.018)
    ticket = at(levels, 60, 1)
    assert (ticket.density, ticket.error.n) == (0.8, 3)
    assert (ticket.error.mean, ticket.error.std) == (pytest.approx(0.018), pytest.approx(0.003))
    assert ticket.matching is True and ticket.barrier is None
    start = at(levels, 60, 0)
    assert start.error == levels.dense and start.matching is None
    assert (start.barrier.mean, start.barrier.std) == (pytest.approx(0.4), pytest.approx(0.02**0.5))
    control = at(levels, 60, 1, "random")
    assert (control.error.mean, control.matching) == (pytest.approx(0.03), False)


def test_mean_at_the_limit_matches_and_one_example_more_does_not():
    assert at(summary([*DENSE, error(0.018, 0, 1, 60)]), 60, 1).matching is True
    assert at(summary([*DENSE, error(0.018 + 1e-6, 0, 1, 60)]), 60, 1).matching is False


def test_equal_means_match_when_the_dense_runs_do_not_differ():
    rows = [*(error(0.1, k) for k in range(3)), error(0.3, 0, 1, 60), error(0.0, 1, 1, 60), error(0.0, 2, 1, 60)]
    assert summary(rows).epsilon == 0
    assert at(summary(rows), 60, 1).matching is True


@pytest.mark.parametrize("dense", [[], DENSE[:1], [DENSE[0], DENSE[1], error(math.nan, 2)]])
def test_matching_is_unknown_without_two_finite_dense_runs(dense):
    rows = [*dense, error(0.01, 0, 1, 60)]
    levels = summary(rows)
    assert levels.threshold is None
    assert at(levels, 60, 1).matching is None
    assert "cannot be judged" in findings(rows)[0]


def test_diverged_replicate_is_counted_and_its_level_does_not_match():
    levels = summary([*DENSE, error(0.01, 0, 1, 60), error(math.inf, 1, 1, 60), error(math.nan, 0, 2, 60)])
    one, all_of_them = at(levels, 60, 1), at(levels, 60, 2)
    assert (one.error.n, one.error.diverged, one.error.mean, one.error.std) == (1, 1, 0.01, None)
    assert one.matching is False
    assert all_of_them.error.n == 0 and math.isnan(all_of_them.error.mean) and all_of_them.matching is False


def tickets(step, errors, heights):
    """Levels 1, 2, … with these errors; barriers 1→2, 2→3, …"""
    yield from (error(value, 0, level, step) for level, value in enumerate(errors, start=1))
    yield from (barrier(value, level, step) for level, value in enumerate(heights, start=1))


def test_agreement_counts_pairs_above_level_0_by_matching_and_barrier():
    match, fail = 0.01, 0.05
    rows = [
        *DENSE,
        barrier(0.9, 0),
        *tickets(60, [match, match, match, fail, fail, fail], [0.0, 0.3, 0.0039, 0.0, 0.0041]),
    ]
    (found,) = agreements(rows)
    assert found.matching_connected == (1,)
    assert found.matching_separated == (2,)
    assert found.failing_connected == (3, 4)
    assert found.failing_separated == (5,)
    assert (found.pairs, found.agreeing) == (5, 2)
    text = " ".join(findings(rows))
    # ε is 0.4 points; below 2 points are all but one barrier.
    assert "up to ε = 0.40 points as none, the two coincide at 2 of 5 pairs" in text
    assert "(at 1 if barriers up to the 2 points of Linear Mode Connectivity count as none)" in text
    assert "Connected although not both match: rewind 60 from level 3–4." in text
    assert "Separated although both match: rewind 60 from level 2." in text


def test_findings_claim_the_paper_only_where_both_sides_occur():
    good, bad = tickets(60, [0.01] * 3, [0.0] * 2), tickets(0, [0.05] * 3, [0.5] * 2)
    both = " ".join(findings([*DENSE, *good, *bad]))
    assert "coincide at all 4 pairs of levels here (" in both and "one side" not in both
    one = " ".join(findings([*DENSE, *tickets(60, [0.01] * 3, [0.0] * 2)]))
    assert "At no pair is there a barrier, so this run shows one side of the finding only." in one
    none = " ".join(findings([*DENSE, error(0.01, 0, 1, 60)]))
    assert "cannot be judged here: it takes barriers between levels" in none


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ([0.01, 0.01, 0.01], "Rewound to step 5,000: every level matches on average, down to 51.2% of the weights."),
        ([0.01, 0.01, 0.05], "matches on average down to 64.0% of the weights, not below."),
        ([0.05, 0.05, 0.05], "no level matches (3 levels tried)."),
        ([0.01, 0.05, 0.01], "at 2 of 3 levels (1, 3): every level down to 80.0%, the sparsest at 51.2%."),
        ([0.05, 0.05, 0.01], "at 1 of 3 levels (3): not the first, the sparsest at 51.2%."),
    ],
)
def test_findings_say_down_to_where_the_tickets_match(errors, says):
    assert says in " ".join(findings([*DENSE, *tickets(5000, errors, [])]))


def test_findings_give_median_and_extremes_of_the_mean_barriers():
    rows = [*DENSE, barrier(0.1, 0), *tickets(60, [0.01] * 4, [0.4, 0.2, 0.3])]
    assert "a median of 25.0 points; it is largest, 40.0, from level 1 to 2, and smallest at 10.0." in " ".join(
        findings(rows)
    )
