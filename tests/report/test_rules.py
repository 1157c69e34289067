"""The rules: supported, contradicted, neither or not judged, on numbers whose answer is known; and that they stand."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselt.report import rules
from sparselt.report.data import Data
from sparselt.report.rules import (
    REPLICATES,
    STABLE,
    Limit,
    above,
    adjusted,
    all_of,
    below,
    coincidence,
    epsilon,
    judged_level,
    judged_step,
    lower,
    matches,
    no_barrier,
    rising_together,
    student,
    within,
)
from sparselt.report.statistic import Statistic, Values, spread

UNSEEN, UNJUDGED = "cannot be seen at this scale", "not judged"
LOW = Values({k: 1.0 + 0.1 * k for k in range(5)})
HIGH = Values({k: value + 1 + 0.05 * k for k, value in LOW.items()})
NEAR = Values({k: value + 0.01 * (-1) ** k for k, value in LOW.items()})
numbers = st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=8, unique=True)


def test_a_changed_rule_has_a_new_version():
    """If this fails, a rule was changed: raise VERSION in sparselt/report/rules.py, add its digest to rules.json (rules
    are never edited there), say in docs/results/README.md what changed, add the seeds whose results were seen to
    `explored_seeds` of their settings, and judge by the new rules runs of fresh seeds."""
    frozen = json.loads((Path(__file__).parents[1] / "frozen" / "rules.json").read_text())
    assert frozen.get(str(rules.VERSION)) == rules.digest()
    assert max(map(int, frozen)) == rules.VERSION and len(set(frozen.values())) == len(frozen)


def test_a_finding_agrees_one_way_and_is_contradicted_the_other():
    assert (lower(LOW, HIGH).verdict, lower(HIGH, LOW).verdict) == ("agrees", "does not agree")
    assert lower(LOW, HIGH).n == 5
    claim = lower(HIGH, LOW).claim("paper", "claim", "here")
    assert claim.p > 0.99 and claim.statistic.startswith("one-sided paired t(4) = ")
    assert claim.statistic.endswith("; the contrary: p < 0.0001")


def test_what_only_scatters_cannot_be_seen():
    scattered = {k: value + (-1) ** k for k, value in LOW.items()}
    assert lower(LOW, scattered).verdict == lower(scattered, LOW).verdict == UNSEEN


@given(st.dictionaries(st.integers(0, 1), st.floats(-1, 1), max_size=REPLICATES - 1))
def test_fewer_than_three_replicates_judge_nothing_and_say_so(values):
    own = Values(values)
    found = (
        lower(own, own),
        below(own, Limit(3.0)),
        above(own, Limit(3.0)),
        within(own, Limit(0.1)),
        no_barrier(own, Limit(0.1)),
        all_of(below(LOW), below(own)),
        rising_together([own] * 3, [own] * 3),
    )
    for judged in found:
        assert (judged.verdict, judged.p, judged.n) == (UNJUDGED, None, len(values))
        assert judged.statistic == "fewer than three replicates"


@pytest.mark.parametrize("dense", [Statistic.of([0.1] * 4), Statistic.of([0.1]), Statistic.of([0.1, 0.2, math.nan])])
def test_where_epsilon_is_not_known_nothing_is_judged_by_it(dense):
    for judge in (below, above, within, no_barrier):
        assert judge(LOW, epsilon(dense)).verdict == UNJUDGED
        assert judge(LOW, epsilon(dense)).statistic.startswith("ε is not known")


def test_paired_t_is_that_of_a_textbook():
    # Student 1908, table of hours of sleep gained under two drugs, as printed by Fisher 1925, section 24: t = 4.06.
    first = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))
    second = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
    found = lower(second, first)
    assert found.statistic == "one-sided paired t(9) = -4.06" and found.n == 10
    assert found.p == pytest.approx(0.00283 / 2, abs=1e-5)
    assert student([*(Values(first) - Values(second)).values()], "two-sided")[1] == pytest.approx(0.00283, abs=1e-5)


@given(numbers, numbers)
def test_swapping_the_sides_swaps_the_finding_and_its_contrary(first, second):
    first, second = (dict(enumerate(values)) for values in (first, second))
    there, back = lower(first, second), lower(second, first)
    assert (there.p, there.against) == (pytest.approx(back.against), pytest.approx(back.p))


@given(numbers)
def test_what_agrees_is_never_contradicted(values):
    own = dict(enumerate(values))
    for judged in (
        below(own),
        above(own),
        within(own, Limit(0.3)),
        below(own, Limit(0.2)),
        no_barrier(own, Limit(0.1)),
    ):
        assert not (judged.p < 0.05 and judged.against < 0.05)


def test_without_spread_the_signs_are_tested():
    low = {0: 0.1, 1: 0.3, 2: 0.7}
    high = {k: value + 0.2 for k, value in low.items()}  # apart by 0.2, but for the last bit
    found = lower(low, high)
    assert found.statistic == "one-sided sign test, no spread" and (found.p, found.against) == (0.125, 1.0)
    assert student([0.2] * 3, "two-sided")[1] == 0.25 and student([0.0] * 3, "two-sided")[1] == 1.0
    assert (lower(low, low).p, lower(low, low).against) == (1.0, 1.0)


def test_a_diverged_replicate_and_one_that_stands_alone_are_left_out():
    assert lower(LOW | {0: math.nan, 9: 1.0}, HIGH).n == 4
    assert within(LOW | {0: math.nan}, Limit(0.1)).n == 4


def test_equivalence_needs_a_small_difference_and_little_scatter_on_both_sides():
    margin = Limit(0.1, "ε")
    assert within(LOW - NEAR, margin).verdict == "agrees"
    assert within(LOW - NEAR, Limit(0.001)).verdict == UNSEEN
    assert within(LOW - HIGH, margin).verdict == within(HIGH - LOW, margin).verdict == "does not agree"
    assert within(LOW - NEAR, margin).statistic == "two one-sided t, margin ε"


def test_equivalence_is_two_one_sided_tests():
    from scipy import stats

    differences = [0.01, -0.02, 0.015, 0.003, -0.004]
    found = within(dict(enumerate(differences)), Limit(0.02))
    sides = [stats.ttest_1samp(differences, s * 0.02, alternative=a).pvalue for s, a in ((-1, "greater"), (1, "less"))]
    assert found.p == pytest.approx(max(sides)) and found.against == pytest.approx(1 - max(sides))


def test_equivalence_says_that_a_small_difference_is_none_of_chance():
    apart = Values({k: 0.001 * (k + 1) for k in range(5)})
    found = within(apart, Limit(0.1, "ε"))
    assert found.verdict == "agrees"
    assert found.statistic.endswith(f"; apart from zero, p = {student([*apart.values()], 'two-sided')[1]:.2g}")


def test_a_difference_that_is_significant_but_about_the_margin_contradicts_nothing():
    found = within(Values({k: 0.1 + 0.02 * (k - 2) for k in range(5)}), Limit(0.1, "ε"))
    assert found.verdict == UNSEEN and "apart from zero" in found.statistic


def test_a_limit_is_named_and_judged_as_a_number_without_spread():
    assert below(LOW, Limit(5.0, "five")).verdict == "agrees"
    assert below(LOW, Limit(5.0, "five")).statistic.endswith(", below five")
    assert below(LOW, Limit(1.0)).verdict == "does not agree" and above(LOW, Limit(1.0)).verdict == "agrees"
    assert above(LOW, Limit(1.0, "one")).statistic.endswith(", above one")


def test_no_barrier_is_judged_by_epsilon_with_the_two_points_beside_it():
    barriers = {k: 0.010 + 0.001 * k for k in range(5)}
    assert below(barriers, STABLE).verdict == "agrees"
    found = no_barrier(barriers, Limit(0.005, "ε"))
    assert found.verdict == "does not agree"
    assert "below ε (below 2 points: p = 0.0001" in found.statistic
    assert no_barrier(barriers, Limit(0.03, "ε")).verdict == "agrees"


def test_several_things_agree_together_and_one_contradicts_them_all():
    good, bad, open_ = lower(LOW, HIGH), lower(HIGH, LOW), lower(LOW, NEAR)
    assert all_of(good, good).verdict == "agrees" and all_of(good, open_).verdict == UNSEEN
    assert all_of(good, bad).verdict == all_of(bad, open_).verdict == "does not agree"
    assert all_of(good, open_).p == open_.p and all_of(good, bad).against == 2 * bad.against
    text = f"{good.statistic}, p < 0.0001 and {open_.statistic}, p = {open_.p:.2g}"
    assert all_of(good, open_).statistic == text and all_of(open_) == open_


def test_within_one_rewind_step_the_coincidence_is_fishers_test():
    from scipy import stats

    found = coincidence([(9, 1, 0, 5)], 5)
    assert found.p == pytest.approx(stats.fisher_exact([[9, 1], [0, 5]], alternative="greater").pvalue)
    assert (found.verdict, found.n) == ("agrees", 15)


def test_over_rewind_steps_the_coincidence_is_counted_within_each():
    # All tables with the margins of each step, by hand.
    tables = [(3, 1, 0, 3), (4, 0, 1, 2)]

    def chances(a, b, c, d):
        ways = {
            both: math.comb(a + b, both) * math.comb(c + d, a + c - both) / math.comb(a + b + c + d, a + c)
            for both in range(a + min(b, c) + 1)
            if 0 <= a + c - both <= c + d
        }
        assert math.fsum(ways.values()) == pytest.approx(1)
        return ways

    p = math.fsum(
        first[1] * second[1]
        for first, second in itertools.product(*(chances(*table).items() for table in tables))
        if first[0] + second[0] >= 7
    )
    assert f"p = {p:.2g}, but both or neither at fewer than 9 of 10" in coincidence(tables, 5).statistic


def test_steps_with_one_side_only_tell_nothing_however_many_pairs_they_have():
    assert coincidence([(20, 0, 0, 0), (0, 0, 0, 20)], 5).p == 1.0
    assert coincidence([(20, 0, 0, 0), (0, 0, 0, 20)], 5).verdict == UNSEEN
    alone, beside = (coincidence(tables, 5).p for tables in ([(5, 0, 0, 5)], [(5, 0, 0, 5), (20, 0, 0, 0)]))
    assert alone == pytest.approx(beside)


def test_if_and_only_if_takes_nine_of_ten_beside_a_small_p():
    judged = coincidence([(16, 2, 2, 13)], 5)
    assert judged.p == 1.0 and judged.verdict == UNSEEN and "p < 0.0001, but both or neither at" in judged.statistic
    assert coincidence([(10, 8, 8, 7)], 5).verdict == "does not agree"
    assert coincidence([(5, 0, 0, 5)], 2).statistic == "fewer than three replicates"


def test_correlation_is_within_replicates_not_between_them():
    def columns(points):
        return [[Values({k: own[i][side] for k, own in points.items()}) for i in range(3)] for side in (0, 1)]

    # Within each replicate the two fall together in part and rise in part; between replicates they rise.
    points = {k: [(10.0 * k + x, 10.0 * k - x) for x in (0, 1, 2)] for k in range(4)}
    assert rising_together(*columns(points)).verdict == "does not agree"
    points = {k: [(x + 0.1 * k * x, 2.0 * x + k) for x in (0, 1, 2)] for k in range(4)}
    judged = rising_together(*columns(points))
    assert (judged.verdict, judged.n) == ("agrees", 12)


def test_correlation_equals_the_pooled_one_of_centred_values():
    from scipy import stats

    first = [Values({0: 1.0, 1: 0.0, 2: 7.0}), Values({0: 2.0, 1: 3.0}), Values({0: 4.0, 1: math.nan})]
    second = [Values({0: 2.0, 1: 0.5, 2: 7.0}), Values({0: 1.0, 1: 2.5}), Values({0: 5.0, 1: 1.0})]
    x = [1 - 7 / 3, 2 - 7 / 3, 4 - 7 / 3, -1.5, 1.5, 0.0]
    y = [2 - 8 / 3, 1 - 8 / 3, 5 - 8 / 3, -1.0, 1.0, 0.0]
    r = stats.pearsonr(x, y).statistic
    judged = rising_together(first, second)
    assert f"r = {r:.2f}" in judged.statistic
    assert judged.p == pytest.approx(stats.t.sf(r * math.sqrt(2 / (1 - r * r)), 2))


@pytest.mark.parametrize("values", [[], [Values({0: 1.0}), Values({0: 2.0})], [Values({0: 1.0, 1: 1.0, 2: 1.0})] * 3])
def test_correlation_of_too_little_is_not_judged(values):
    assert rising_together(values, values).verdict == UNJUDGED


def test_correction_for_many_tests_is_that_of_holm_and_of_benjamini_and_hochberg():
    # Worked by hand: sorted 0.01, 0.02, 0.03, 0.5.
    holm, false = zip(*adjusted([0.03, 0.01, 0.5, 0.02]), strict=True)
    assert holm == pytest.approx((0.06, 0.04, 0.5, 0.06))
    assert false == pytest.approx((0.04, 0.04, 0.5, 0.04))
    assert adjusted([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_correction_never_lowers_a_p_and_holms_is_the_stricter(p):
    for own, (holm, false) in zip(p, adjusted(p), strict=True):
        assert own <= false * (1 + 1e-12) and false <= holm * (1 + 1e-12) and holm <= 1


@pytest.mark.parametrize(
    ("densities", "level"),
    [
        ({n: 0.8**n for n in range(13)}, 8),
        ({3: 0.512, 6: 0.262, 9: 0.134, 12: 0.069}, 9),
        ({0: 1.0, 1: 0.5, 2: 0.25, 3: 0.125}, 3),
        ({1: 1 / 3, 2: 1 / 12}, 2),
        ({0: 1.0}, 0),
        ({}, 0),
    ],
)
def test_the_level_nearest_to_a_sixth_is_judged_of_two_as_near_the_sparser(densities, level):
    assert judged_level(densities) == level


def test_the_declared_step_is_judged_where_it_was_measured_and_the_last_one_otherwise():
    declared = Data([], {"protocol": [["control_rewind_step", 60, ""], ["steps", 600, ""]]})
    assert judged_step(declared, [0, 200, None, 60]) == 60
    assert judged_step(declared, [0, 200]) == judged_step(Data([], {}), [0, 60, 200]) == 200
    assert judged_step(declared, []) == 0


def test_a_mean_matches_up_to_epsilon_above_the_dense_one_to_rounding():
    dense = Statistic.of([0.01, 0.014, 0.018])
    assert matches(Statistic.of([0.018 + 1e-15]), dense) is True
    assert matches(Statistic.of([0.0181]), dense) is False
    assert matches(Statistic.of([0.01, math.nan]), dense) is False
    assert matches(Statistic.of([0.01]), Statistic.of([0.01])) is None


def test_spread_states_what_there_is():
    assert spread([0.01, 0.03], 1, 100) == "2.0 ± 1.4"
    assert spread([2.0, math.nan]) == "2.0"
    assert spread([math.nan]) == "–"
    assert spread([-0.001, 0.0005]) == "0.0 ± 0.0"
