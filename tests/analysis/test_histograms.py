import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparselt import Mask, magnitude_prune
from sparselt.analysis.histograms import bimodality_coefficient, weight_histogram
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.pruning import pruning_threshold

QUANTILES = torch.linspace(0, 1, 4003, dtype=torch.float64)[1:-1]


def dense(weights) -> Mask:
    return Mask({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 60), st.floats(0.2, 3))
def test_coefficient_is_sarles_of_the_corrected_moments(seed, n, power):
    values = np.random.default_rng(seed).normal(size=n)
    values = np.sign(values) * np.abs(values) ** power
    skewness, excess = stats.skew(values, bias=False), stats.kurtosis(values, bias=False)
    expected = (skewness**2 + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    assert bimodality_coefficient(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-9)
    assert bimodality_coefficient(torch.from_numpy(3 - 7 * values)) == pytest.approx(expected, rel=1e-7)


def test_coefficient_of_known_distributions():
    normal = math.sqrt(2) * torch.erfinv(2 * QUANTILES - 1)
    assert bimodality_coefficient(normal) == pytest.approx(1 / 3, abs=0.005)
    assert bimodality_coefficient(QUANTILES) == pytest.approx(5 / 9, abs=0.001)
    assert bimodality_coefficient(torch.tensor([-1.0, 1.0]).repeat(2000)) == pytest.approx(1, abs=0.002)
    assert bimodality_coefficient(torch.cat([normal - 3, normal + 3])) > 5 / 9
    for undefined in (torch.full((9,), 0.1), torch.arange(3.0)):
        assert math.isnan(bimodality_coefficient(undefined))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.floats(0.05, 0.95), st.one_of(st.none(), st.floats(0.1, 5)))
def test_every_live_weight_is_in_its_bin_or_outside(seed, bins, fraction, limit):
    rng = np.random.default_rng(seed)
    weights = {"a": torch.from_numpy(rng.normal(size=(6, 5))).float(), "b": torch.from_numpy(rng.normal(size=9))}
    mask = Mask({n: torch.from_numpy(rng.random(w.shape) < 0.8) for n, w in weights.items()} | {"c": torch.ones(1) > 0})
    weights["c"] = torch.ones(1)
    found = weight_histogram(weights, mask, bins=bins, limit=limit, fraction=fraction)
    live = np.concatenate([weights[name][mask[name]].numpy() for name in mask]).astype(float)
    assert len(found.edges) == len(found.counts) + 1 == bins + 1
    assert found.edges[-1] == -found.edges[0] == pytest.approx(np.abs(live).max() if limit is None else limit)
    assert sum(found.counts) + found.outside == mask.live
    assert found.outside == (np.abs(live) > found.edges[-1]).sum()
    for count, low, high in zip(found.counts, found.edges, found.edges[1:], strict=False):
        assert count == ((live >= low) & ((live < high) | ((high == found.edges[-1]) & (live == high)))).sum()
    assert found.threshold_ratio == pytest.approx(found.threshold / np.median(np.abs(live)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99), st.booleans())
def test_threshold_is_the_largest_magnitude_that_pruning_takes(seed, fraction, ties):
    rng = np.random.default_rng(seed)
    weights = {n: torch.from_numpy(rng.normal(size=(4, 5))).float() for n in "ab"}
    weights = {n: w.round() if ties else w for n, w in weights.items()}
    mask = Mask({n: torch.from_numpy(rng.random((4, 5)) < 0.9) for n in "ab"})
    pruned = magnitude_prune(weights, mask, fraction)
    gone = torch.cat([weights[n][mask[n] & ~pruned[n]] for n in mask]).abs()
    assert pruning_threshold(weights, mask, fraction) == gone.max()


def test_layers_of_different_scale_do_not_hide_two_humps():
    humps = torch.cat([QUANTILES + 1, -QUANTILES - 1])
    weights = {"wide": 20 * humps, "narrow": 0.5 * humps, "zero": torch.zeros(3)}
    found = weight_histogram(weights, dense(weights))
    assert bimodality_coefficient(torch.cat(list(weights.values()))) < 5 / 9 < 0.8 < found.bimodality
    alone = weight_histogram({"narrow": humps}, Mask({"narrow": torch.ones(len(humps)) > 0}))
    assert alone.threshold_ratio == pytest.approx(1.2 / 1.5, abs=0.001)


def test_normal_weights_have_the_threshold_ratio_and_bimodality_of_one_hump():
    normal = {"w": math.sqrt(2) * torch.erfinv(2 * QUANTILES - 1)}
    found = weight_histogram(normal, dense(normal))
    assert found.threshold_ratio == pytest.approx(0.3756, abs=0.002) and found.bimodality < 0.34


def test_layer_scales_do_not_change_the_bimodality():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(30, generator=generator).double() for name in "ab"}
    scaled = {"a": 1e-3 * weights["a"], "b": 40 * weights["b"]}
    assert weight_histogram(scaled, dense(weights)).bimodality == pytest.approx(
        weight_histogram(weights, dense(weights)).bimodality, rel=1e-12
    )
    assert all(isinstance(value, float) for value in dataclasses.astuple(weight_histogram(scaled, dense(weights)))[3:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "0 bins"),
        ({"bins": 2.5}, "2.5 bins"),
        ({"limit": 0}, "limit of the histogram is 0"),
        ({"limit": math.inf}, "limit of the histogram is inf"),
        ({"fraction": 1}, "between 0 and 1"),
        ({"mask": Mask({"w": torch.zeros(2) > 0})}, "no weight is alive in the mask"),
        ({"weights": {"w": torch.zeros(2)}}, "all live weights are zero"),
    ],
)
def test_what_makes_no_histogram_is_refused(options, message):
    arguments = {"weights": {"w": torch.ones(2)}, "mask": Mask({"w": torch.ones(2) > 0})}
    with pytest.raises(SettingError, match=message):
        weight_histogram(**{**arguments, **options})


def test_weights_that_do_not_fit_or_are_not_finite_are_named():
    mask = Mask({"w": torch.ones(2) > 0})
    with pytest.raises(MaskError, match="'w'"):
        weight_histogram({"v": torch.ones(2)}, mask)
    for function, message in (
        (weight_histogram, "^'w' holds live weights that are not finite"),
        (lambda weights, mask: pruning_threshold(weights, mask, 0.5), "'w'"),
    ):
        with pytest.raises(TrainingError, match=message):
            function({"w": torch.tensor([1.0, math.nan])}, mask)
