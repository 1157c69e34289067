import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt import Mask
from sparselt.analysis.overlap import (
    intersection_chance,
    jaccard_chance,
    layerwise_intersection_chance,
    layerwise_jaccard_chance,
    layerwise_union_chance,
    mask_overlap,
    mean_pairwise_jaccard,
    union_chance,
)
from sparselt.errors import MaskError, SettingError

densities = st.floats(0.0, 1.0)


def mask_of(*layers) -> Mask:
    return Mask({f"w{i}": torch.as_tensor(layer, dtype=torch.bool) for i, layer in enumerate(layers)})


def with_live(sizes, live) -> Mask:
    return mask_of(*(np.arange(size) < number for size, number in zip(sizes, live, strict=True)))


@given(st.floats(1e-6, 1), st.integers(1, 10))
def test_chance_of_equal_densities_is_the_papers_formula(density, k):
    assert jaccard_chance(density, density) == pytest.approx(density / (2 - density))
    assert union_chance([density] * k) == pytest.approx(1 - (1 - density) ** k)
    assert intersection_chance([density] * k) == pytest.approx(density**k)


@given(densities, densities)
def test_chance_is_symmetric_and_between_0_and_the_ratio_of_densities(first, second):
    chance = jaccard_chance(first, second)
    assert chance == pytest.approx(jaccard_chance(second, first))
    if max(first, second) > 0:
        assert 0 <= chance <= min(first, second) / max(first, second) + 1e-12


@given(st.lists(densities, min_size=1, max_size=10))
def test_chance_of_a_union_is_what_no_complement_shares(several):
    assert union_chance(several) == pytest.approx(1 - intersection_chance([1 - d for d in several]))
    assert intersection_chance(several) <= min(several) and max(several) <= union_chance(several) + 1e-12


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=4))
def test_layerwise_chance_of_equal_layer_densities_is_the_papers_formula(layers):
    sizes, live = [n for n, _ in layers], [min(n, m) for n, m in layers]
    mask = with_live(sizes, live)
    d = [m / n for n, m in zip(sizes, live, strict=True)]
    above = sum(n * x**2 for n, x in zip(sizes, d, strict=True))
    below = sum(n * (2 * x - x**2) for n, x in zip(sizes, d, strict=True))
    assert layerwise_jaccard_chance(mask, mask) == pytest.approx(above / below if below else 1.0)
    # Convexity: unequal layers only ever overlap more than global chance says.
    assert layerwise_jaccard_chance(mask, mask) >= jaccard_chance(mask.density, mask.density) - 1e-12
    assert layerwise_jaccard_chance(mask, mask) <= 1 + 1e-12


def test_with_one_layer_layerwise_and_global_chance_are_one():
    first, second = with_live([40], [10]), with_live([40], [25])
    assert layerwise_jaccard_chance(first, second) == pytest.approx(jaccard_chance(0.25, 0.625))
    assert layerwise_union_chance([first, second]) == pytest.approx(union_chance([0.25, 0.625]))
    assert layerwise_intersection_chance([first, second]) == pytest.approx(intersection_chance([0.25, 0.625]))


@pytest.mark.parametrize("live", [(30, 200, 80), (5, 380, 2)])
def test_random_masks_overlap_as_layerwise_chance_says(live):
    sizes, others = (60, 400, 300), (12, 150, 240)
    first, second = with_live(sizes, live), with_live(sizes, others)
    draws = 200
    pairs = [(Mask.random_like(first, seed), Mask.random_like(second, 10_000 + seed)) for seed in range(draws)]
    third = [Mask.random_like(first, 20_000 + seed) for seed in range(draws)]
    for found, expected in [
        ([a.jaccard(b) for a, b in pairs], layerwise_jaccard_chance(first, second)),
        (
            [(a | b | c).density for (a, b), c in zip(pairs, third, strict=True)],
            layerwise_union_chance([first, second, first]),
        ),
        (
            [(a & b & c).density for (a, b), c in zip(pairs, third, strict=True)],
            layerwise_intersection_chance([first, second, first]),
        ),
    ]:
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(draws)
        assert np.std(found) < 0.1 * expected + 0.01


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.floats(0.05, 0.95))
def test_overlap_of_several_masks_is_counted_weight_by_weight(seed, k, density):
    rng = np.random.default_rng(seed)
    drawn = rng.random((k, 30)) < density
    overlap = mask_overlap([mask_of(row[:10], row[10:]) for row in drawn])
    pairs = [
        ((drawn[i] & drawn[j]).sum() / (drawn[i] | drawn[j]).sum() if (drawn[i] | drawn[j]).any() else 1.0)
        for i in range(k)
        for j in range(i)
    ]
    assert overlap.jaccard == pytest.approx(np.mean(pairs))
    assert overlap.union == drawn.any(0).mean() and overlap.intersection == drawn.all(0).mean()
    assert overlap.union_chance == pytest.approx(1 - np.prod(1 - drawn.mean(1)))
    assert overlap.intersection_chance == pytest.approx(np.prod(drawn.mean(1)))
    halves = [drawn[:, :10].mean(1), drawn[:, 10:].mean(1)]
    expected = (10 * np.prod(halves[0]) + 20 * np.prod(halves[1])) / 30
    assert overlap.intersection_layerwise_chance == pytest.approx(expected)
    assert overlap.intersection <= overlap.union


def test_identical_masks_overlap_entirely_and_disjoint_ones_not_at_all():
    mask, other = mask_of([1, 0, 0, 0]), mask_of([0, 1, 1, 0])
    same, apart = mask_overlap([mask, mask, mask]), mask_overlap([mask, other])
    assert (same.jaccard, same.union, same.intersection) == (1.0, 0.25, 0.25)
    assert (apart.jaccard, apart.union, apart.intersection) == (0.0, 0.75, 0.0)


def test_dense_and_empty_masks_overlap_entirely_also_by_chance():
    dense, empty = mask_of([1, 1], [1]), mask_of([0, 0], [0])
    for masks, size in (([dense, dense], 1.0), ([empty, empty], 0.0)):
        overlap = mask_overlap(masks)
        assert overlap.jaccard == overlap.jaccard_chance == overlap.jaccard_layerwise_chance == 1.0
        assert overlap.union == overlap.union_chance == overlap.union_layerwise_chance == size


def test_one_mask_and_masks_of_different_networks_are_refused():
    with pytest.raises(SettingError, match="compare: 1; expected two"):
        mean_pairwise_jaccard([mask_of([1])])
    with pytest.raises(MaskError, match="'w1'"):
        mask_overlap([mask_of([1]), mask_of([1], [1])])
    with pytest.raises(MaskError, match="'w1'"):
        layerwise_union_chance([mask_of([1]), mask_of([1], [1])])


@pytest.mark.parametrize("density", [-0.1, 1.1, math.nan, "half", None])
def test_what_is_no_density_has_no_chance(density):
    for chance in (
        lambda: union_chance([0.5, density]),
        lambda: intersection_chance([density]),
        lambda: jaccard_chance(density, 0.5),
    ):
        with pytest.raises(SettingError, match=f"density is {density!r}; expected a number from 0 to 1"):
            chance()


def test_one_density_alone_is_not_several():
    with pytest.raises(SettingError, match=r"densities are 0.2; expected several, such as \[0.2, 0.2\]"):
        union_chance(0.2)


def test_masks_that_can_be_gone_through_once_only_are_refused():
    with pytest.raises(SettingError, match="masks to compare are a generator; expected a list"):
        mask_overlap(mask_of([1]) for _ in range(2))


def test_densities_and_masks_that_can_be_gone_through_once_count_as_a_list_does():
    assert union_chance(d for d in (0.3, 0.3)) == union_chance([0.3, 0.3]) == pytest.approx(0.51)
    assert intersection_chance(d for d in (0.3, 0.3)) == pytest.approx(0.09)
    masks = [mask_of([1]), mask_of([1])]
    assert layerwise_union_chance(m for m in masks) == layerwise_union_chance(masks)
    assert layerwise_union_chance([dict(m) for m in masks]) == layerwise_union_chance(masks)


def test_nothing_has_no_chance():
    for chance in (union_chance, intersection_chance, layerwise_union_chance, layerwise_intersection_chance):
        with pytest.raises(SettingError, match=r"there is no (density|mask) to combine by chance"):
            chance([])
