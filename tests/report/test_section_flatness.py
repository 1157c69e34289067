"""What the report says of flatness and perturbations, from invented networks."""

import math
import random

import pytest

from sparselt.experiments.flatness.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row

TOO_FEW = "fewer than three replicates"

LEVELS = (0, 3, 6, 9)


def row(variant, replicate, step, level, metric, value, to_level=None, condition="") -> Row:
    place = ("invented", "mini", "flatness", variant, replicate, step, level, 0.8**level, metric, value)
    return Row(*place, to_level=to_level, condition=condition)


def invented(replicates=5, sign=-1, barrier=0.004, seed=0, at_a_level=-1, dense=0.3) -> list[Row]:
    """Fractions fall (sign -1) or rise with the eigenvalue, and at a level; barriers of tens of points at step 0."""
    rng, rows = random.Random(seed), []
    for k in range(replicates):
        rows.append(Row("invented", "mini", "imp", "dense", k, None, 0, 1.0, "test_error", 0.03 + 0.01 * (k % 2)))
        for step in (0, 200):
            for level in LEVELS:
                eigenvalue = 1 + level + 5 * (step == 0) * (level > 0) + (rng.random() if level else 0)
                mean = 1 + level + 2.5 * (level > 0)
                fraction = 0.5 + 0.03 * (sign * mean + at_a_level * (eigenvalue - mean))
                values = {"eigenvalue_1": eigenvalue, "trace": 10 * eigenvalue}
                values |= {"largest_prunable_fraction": fraction, "largest_own_fraction": fraction + 0.1}
                rows += [row("imp", k, step, level, metric, value) for metric, value in values.items()]
            for variant, level, scales in (("perturbed", 6, (0.5, 1.0, 2.0)), ("perturbed_dense", 0, (1.0,))):
                for scale in scales:
                    late = barrier if level else dense
                    height = (0.4 if step == 0 else late) * scale + 0.002 * rng.random()
                    condition = f"scale={scale:g}"
                    rows.append(row(variant, k, step, level, "barrier", height, level, condition))
                    rows.append(row(variant, k, step, level, "relative_perturbation", 0.1, None, condition))
    return rows


def data(rows) -> Data:
    return Data(rows, {})


def without(rows, value, **columns) -> list[Row]:
    """The rows with another value where the columns agree."""
    values = [{name: getattr(r, name) for name in Row.__slots__} for r in rows]
    return [
        Row(**(v | {"value": value})) if all(v[name] == wanted for name, wanted in columns.items()) else Row(**v)
        for v in values
    ]


def test_fractions_that_fall_with_curvature_and_low_barriers_agree():
    limits, returns, dense = SECTION.claims(data(invented()))
    assert (limits.verdict, returns.verdict, dense.verdict) == ("agrees", "agrees", "agrees")
    assert "-1.00 ± 0.00" in limits.here and limits.n == returns.n == 5
    # 7 networks a replicate: the dense one is shared by both rewind steps.
    assert "over all 35 networks -1.00" in limits.here
    assert "points at rewind step 200, 40." in returns.here


def test_a_correlation_that_is_the_levels_alone_does_not_agree():
    limits, *_ = SECTION.claims(data(invented(at_a_level=0.3, replicates=6)))
    assert limits.verdict == "does not agree" and "at a given level 0." in limits.here
    text = SECTION.findings(data(invented(at_a_level=0.3, replicates=6)))[0]
    assert "At a given level (partial correlation within replicates) it is 0." in text


def test_the_partial_correlation_is_that_of_the_residuals_of_ranks():
    import numpy as np
    from scipy import stats

    own = [r for r in invented(replicates=1, at_a_level=0.4, seed=3) if not (r.rewind_step == 200 and r.level == 0)]
    x, y = (
        stats.rankdata([r.value for r in own if r.metric == name])
        for name in ("eigenvalue_1", "largest_prunable_fraction")
    )
    z = stats.rankdata([r.level for r in own if r.metric == "eigenvalue_1"])
    left = [side - np.polyval(np.polyfit(z, side, 1), z) for side in (x, y)]
    here = SECTION.claims(data(own))[0].here
    assert f"at a given level {np.corrcoef(*left)[0, 1]:.2f};" in here


def test_fractions_that_rise_and_high_barriers_do_not_agree():
    limits, returns, dense = SECTION.claims(data(invented(sign=1, barrier=0.3, dense=0.0, replicates=6)))
    assert (limits.verdict, returns.verdict, dense.verdict) == ("does not agree",) * 3


def test_one_replicate_is_judged_by_nobody():
    for claim in SECTION.claims(data(invented(replicates=1))):
        assert (claim.verdict, claim.statistic, claim.p) == ("not judged", TOO_FEW, None)


def test_a_correlation_is_stated_with_its_number_of_networks_and_its_p_or_that_it_is_not_judged():
    whole, one = SECTION.findings(data(invented())), SECTION.findings(data(invented(replicates=1)))
    assert "p = " in whole[0] and "over all 35 networks together" in whole[0]
    assert f"(1 replicate: {TOO_FEW})" in one[0] and "over all 7 networks together" in one[0]
    few = SECTION.findings(data([r for r in invented() if r.level in (0, 3)]))
    assert "not judged, no replicate has 4 networks" in few[0]


def test_perturbations_stand_at_ticks_with_their_own_scales():
    axes = SECTION.drawings(data(invented()))["perturbation"].figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1", "2"]
    assert {text.get_text() for text in axes.texts} == {"rewind 0", "rewind 200"}


def test_perturbations_of_one_scale_stand_at_their_rewind_steps_with_names_outside_of_the_data():
    rows = [r for r in invented() if r.condition in ("", "scale=1")]
    axes = SECTION.drawings(data(rows))["perturbation"].figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "200"]
    assert "perturbed by 1 ×" in axes.get_xlabel()
    assert {text.get_text() for text in axes.texts} == {"pruned to 26.2%", "dense"}
    assert axes.get_legend() is None and all(text.get_position()[0] > 1 for text in axes.texts)


def test_fractions_that_are_all_tied_have_no_correlation():
    rows = without(invented(), 0.0, metric="largest_prunable_fraction")
    limits, *_ = SECTION.claims(data(rows))
    assert limits.verdict == "not judged" and "undefined" in limits.here
    assert any("At 35 of 35 networks not even 5%" in text for text in SECTION.findings(data(rows)))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"metric": "eigenvalue_1"},
        {"metric": "barrier"},
        {"experiment": "flatness", "replicate": 2},
        {"metric": "largest_prunable_fraction"},
    ],
)
def test_numbers_that_are_not_finite_are_drawn_around(columns):
    rows = without(invented(replicates=6), math.nan, **columns)
    assert SECTION.findings(data(rows)) is not None
    for claim in SECTION.claims(data(rows)):
        assert claim.verdict == "agrees" or "replicate" not in columns
    for drawing in SECTION.drawings(data(rows)).values():
        drawing.figure.draw_without_rendering()


def test_without_perturbations_only_the_spectrum_is_reported():
    rows = [r for r in invented() if r.variant == "imp"]
    assert set(SECTION.drawings(data(rows))) == {"flatness_by_level", "flatness_against_fraction"}
    assert len(SECTION.claims(data(rows))) == 1
