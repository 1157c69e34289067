"""Verdicts: supported, contradicted or neither, on numbers whose answer is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselt.report.inference import paired
from sparselt.report.statistic import spread
from sparselt.report.verdicts import (
    REPLICATES,
    TOO_FEW,
    coincidence,
    epsilon_text,
    equal,
    in_doubt,
    lower,
    lower_than,
    not_higher,
    only_if,
    rising_together,
)

UNSEEN = "cannot be seen at this scale"
NO_DOUBT = (0, 0, 0, 0)
LOW = {k: 1.0 + 0.1 * k for k in range(5)}
HIGH = {k: value + 1 + 0.05 * k for k, value in LOW.items()}


def test_a_finding_agrees_one_way_and_is_contradicted_the_other():
    assert (lower(LOW, HIGH).verdict, lower(HIGH, LOW).verdict) == ("agrees", "does not agree")
    assert lower(LOW, HIGH).n == 5


def test_what_only_scatters_cannot_be_seen():
    scattered = {k: value + (-1) ** k for k, value in LOW.items()}
    assert lower(LOW, scattered).verdict == lower(scattered, LOW).verdict == UNSEEN


@given(st.dictionaries(st.integers(0, 1), st.floats(-1, 1), max_size=REPLICATES - 1))
def test_fewer_than_three_replicates_judge_nothing(values):
    found = (
        lower(values, values),
        lower_than(values, 3.0),
        equal(values, values, 0.1, "margin"),
        not_higher(values, values, 0.1),
        rising_together({k: [(0.0, value), (1.0, 2.0), (2.0, 4.0)] for k, value in values.items()}),
    )
    for judged in found:
        assert (judged.verdict, judged.p, judged.n, judged.statistic) == (UNSEEN, None, len(values), TOO_FEW)


def test_what_coincides_is_judged_from_three_replicates_on():
    assert coincidence((5, 0, 0, 5), NO_DOUBT, "pairs", 2).verdict == UNSEEN
    assert coincidence((5, 0, 0, 5), NO_DOUBT, "pairs", 2).statistic == TOO_FEW
    assert coincidence((5, 0, 0, 5), NO_DOUBT, "pairs", 3).verdict == "agrees"


def test_if_and_only_if_takes_nine_of_ten_beside_a_small_p():
    judged = coincidence((16, 2, 2, 13), NO_DOUBT, "pairs", 5)
    assert judged.p < 0.001 and judged.verdict == UNSEEN
    assert "at least 9 of 10 (our limit), fewer by a binomial test with p = 0.42" in judged.statistic
    assert coincidence((10, 8, 8, 7), NO_DOUBT, "pairs", 5).verdict == "does not agree"


@pytest.mark.parametrize(
    ("cells", "doubtful", "verdict", "told"),
    [
        ((15, 6, 1, 11), (6, 6, 1, 2), UNSEEN, "without those in doubt 18 of 18 coincide"),
        ((15, 1, 1, 11), (6, 0, 0, 8), UNSEEN, "without those in doubt 12 of 14 coincide"),
        ((15, 0, 0, 11), (15, 0, 0, 11), UNSEEN, "without those in doubt 0 of 0 coincide"),
        ((15, 1, 0, 11), (2, 1, 0, 2), "agrees", ""),
    ],
)
def test_a_verdict_that_hangs_on_what_is_in_doubt_is_none(cells, doubtful, verdict, told):
    judged = coincidence(cells, doubtful, "pairs", 5)
    assert judged.verdict == verdict and judged.n == sum(cells)
    assert told in judged.statistic if told else "doubt" not in judged.statistic


def test_what_is_in_doubt_is_counted_in_words():
    assert in_doubt(NO_DOUBT) == ""
    one, five = in_doubt((1, 0, 0, 0)), in_doubt((1, 2, 1, 1), " or so")
    assert one.startswith("; 1 pair hangs on a level") and one.endswith("limit, 0 of them exceptions")
    assert five.startswith("; 5 pairs hang on a level") and five.endswith("or so, 3 of them exceptions")


def test_what_takes_more_than_its_test_is_not_seen_without_it():
    judged = lower(LOW, HIGH)
    assert only_if(judged, True, "but") == judged
    found = only_if(judged, False, "but they match")
    assert (found.verdict, found.p) == (UNSEEN, judged.p) and found.statistic.endswith("; but they match")
    assert only_if(lower(HIGH, LOW), False, "but") == lower(HIGH, LOW)


def test_a_diverged_replicate_is_left_out():
    assert lower(LOW | {0: math.nan}, HIGH).n == 4


def test_equality_needs_a_small_difference_and_little_scatter():
    near = {k: value + 0.01 * (-1) ** k for k, value in LOW.items()}
    assert equal(LOW, near, 0.1, "margin").verdict == "agrees"
    assert equal(LOW, near, 0.001, "margin").verdict == UNSEEN
    assert equal(LOW, HIGH, 0.1, "margin").verdict == "does not agree"


def test_equality_says_where_its_margin_comes_from_and_whether_the_difference_is_significant_all_the_same():
    near = {k: value + 0.01 * (-1) ** k for k, value in LOW.items()}
    above = {k: value + 0.001 * (k + 1) for k, value in LOW.items()}
    text = "margin ε = 10.00 points, the standard deviation of the dense error"
    assert equal(LOW, near, 0.1, epsilon_text(0.1)).statistic == f"two one-sided paired t, {text}"
    both = equal(LOW, above, 0.1, epsilon_text(0.1))
    assert both.verdict == "agrees"
    assert f"; the difference itself is significant, p = {paired(LOW, above).p:.2g}" in both.statistic


def test_an_error_is_not_higher_if_it_is_by_less_than_epsilon():
    near = {k: value + 0.01 * (k % 2) for k, value in LOW.items()}
    assert not_higher(near, LOW, 0.1).verdict == not_higher(LOW, HIGH, 0.1).verdict == "agrees"
    assert not_higher(HIGH, LOW, 0.1).verdict == "does not agree"
    assert "margin ε = 10.00 points" in not_higher(near, LOW, 0.1).statistic
    assert "the difference itself is significant" in not_higher(LOW, HIGH, 0.1).statistic


def test_no_margin_is_no_test():
    judged = equal(LOW, LOW, 0.0, "margin")
    assert (judged.verdict, judged.statistic) == (UNSEEN, "no margin above zero: not judged")


def test_a_limit_is_judged_as_a_number_without_spread():
    assert lower_than(LOW, 5.0).verdict == "agrees"
    assert lower_than(LOW, 0.0).verdict == "does not agree"
    assert "paired" not in lower_than(LOW, 5.0).statistic


def test_correlation_is_within_replicates_not_between_them():
    # Within each replicate the two fall together in part and rise in part; between replicates they rise.
    points = {k: [(10.0 * k + x, 10.0 * k - x) for x in (0, 1, 2)] for k in range(4)}
    assert rising_together(points).verdict == "does not agree"
    points = {k: [(x + 0.1 * k * x, 2.0 * x + k) for x in (0, 1, 2)] for k in range(4)}
    judged = rising_together(points)
    assert (judged.verdict, judged.n) == ("agrees", 12)


def test_correlation_equals_the_pooled_one_of_centred_values():
    from scipy import stats

    points = {0: [(1.0, 2.0), (2.0, 1.0), (4.0, 5.0)], 1: [(0.0, 0.5), (3.0, 2.5), (math.nan, 1.0)], 2: [(7.0, 7.0)]}
    x = [1 - 7 / 3, 2 - 7 / 3, 4 - 7 / 3, -1.5, 1.5, 0.0]
    y = [2 - 8 / 3, 1 - 8 / 3, 5 - 8 / 3, -1.0, 1.0, 0.0]
    r = stats.pearsonr(x, y).statistic
    judged = rising_together(points)
    assert f"r = {r:.2f}" in judged.statistic
    assert judged.p == pytest.approx(stats.t.sf(r * math.sqrt(2 / (1 - r * r)), 2))


@pytest.mark.parametrize("points", [{}, {0: [(1.0, 1.0), (2.0, 2.0)]}, {k: [(1.0, 1.0)] * 3 for k in range(3)}])
def test_correlation_of_too_little_is_not_judged(points):
    assert rising_together(points).verdict == UNSEEN


def test_spread_states_what_there_is():
    assert spread([0.01, 0.03], 1, 100) == "2.0 ± 1.4"
    assert spread([2.0, math.nan]) == "2.0"
    assert spread([math.nan]) == "–"
    assert spread([-0.001, 0.0005]) == "0.0 ± 0.0"
