"""How much masks overlap, against the overlap of random masks (Movva et al. 2021).

*Global* chance draws masks with the density of each mask: two of density d have a Jaccard of d / (2 − d); of all
weights, the union of k has 1 − (1 − d)^k and the intersection d^k. *Layerwise* chance draws masks with the density of
each layer, as `Mask.random_like` does. Global pruning leaves some layers denser than others, and the same ones in all
masks. So layerwise chance is the higher of the two: an overlap means something only if it exceeds this one.

The chance of a Jaccard is the ratio of the expected sizes of intersection and union. It differs from the expected
ratio by a share of the order of 1 / live weights.
"""

import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparselt.errors import MaskError, SettingError
from sparselt.masks import Mask, as_mask


@dataclass(frozen=True)
class Overlap:
    """Overlap of k masks; every number is in [0, 1]. jaccard and its chances are means over the k(k − 1)/2 pairs.

    union, intersection: live weights of all masks combined over all weights.
    chance, layerwise_chance: see the module.
    """

    jaccard: float
    jaccard_chance: float
    jaccard_layerwise_chance: float
    union: float
    union_chance: float
    union_layerwise_chance: float
    intersection: float
    intersection_chance: float
    intersection_layerwise_chance: float


def mask_overlap(masks: Sequence[Mask]) -> Overlap:
    """Everything about the overlap of two or more masks over the same layers.

    Raises:
        SettingError: fewer than two masks, or not a sequence.
        MaskError: masks over different layers.
    """
    jaccard = mean_pairwise_jaccard(masks)
    masks = [as_mask(mask) for mask in masks]
    union = intersection = masks[0]
    for mask in masks[1:]:
        union, intersection = union | mask, intersection & mask
    densities = [mask.density for mask in masks]
    return Overlap(
        jaccard=jaccard,
        jaccard_chance=_mean(jaccard_chance(a, b) for a, b in itertools.combinations(densities, 2)),
        jaccard_layerwise_chance=_mean(layerwise_jaccard_chance(a, b) for a, b in itertools.combinations(masks, 2)),
        union=union.density,
        union_chance=union_chance(densities),
        union_layerwise_chance=layerwise_union_chance(masks),
        intersection=intersection.density,
        intersection_chance=intersection_chance(densities),
        intersection_layerwise_chance=layerwise_intersection_chance(masks),
    )


def mean_pairwise_jaccard(masks: Sequence[Mask]) -> float:
    """Mean of `Mask.jaccard` over all pairs of two or more masks."""
    if not isinstance(masks, Sequence):
        raise SettingError(f"masks to compare are a {type(masks).__name__}; expected a list")
    if len(masks) < 2:
        raise SettingError(f"masks to compare: {len(masks)}; expected two or more")
    masks = [as_mask(mask) for mask in masks]
    return _mean(a.jaccard(b) for a, b in itertools.combinations(masks, 2))


def jaccard_chance(first: float, second: float) -> float:
    """Jaccard of independent masks of two densities: ab / (a + b − ab), which is d / (2 − d) if both are d.

    Args:
        first, second: the densities a and b, live weights over all weights, in [0, 1].

    Returns:
        In [0, 1]; 1.0 for two empty masks, like `Mask.jaccard`.

    Raises:
        SettingError: a density outside [0, 1]. The functions below also refuse an empty list of densities or masks.
    """
    _checked([first, second])
    return _jaccard(first * second, _union([first, second]))


def union_chance(densities: Iterable[float]) -> float:
    """Density of the union of independent masks: 1 − Π(1 − d)."""
    return _union(_checked(densities))


def intersection_chance(densities: Iterable[float]) -> float:
    """Density of the intersection of independent masks: Π d."""
    return math.prod(_checked(densities))


def layerwise_jaccard_chance(first: Mask, second: Mask) -> float:
    """Jaccard of masks drawn with the layer densities a, b of two masks: Σ n·a·b / Σ n·(a + b − ab).

    n is the number of weights of a layer. For equal densities this is Σ n·d² / Σ n·(2d − d²).
    """
    layers = _layers([first, second])
    expected_intersection = sum(size * math.prod(densities) for size, densities in layers)
    return _jaccard(expected_intersection, sum(size * _union(densities) for size, densities in layers))


def layerwise_union_chance(masks: Iterable[Mask]) -> float:
    """Density of the union of masks drawn with the layer densities of `masks`."""
    layers = _layers(masks)
    return sum(size * _union(densities) for size, densities in layers) / sum(size for size, _ in layers)


def layerwise_intersection_chance(masks: Iterable[Mask]) -> float:
    """Density of the intersection of masks drawn with the layer densities of `masks`."""
    layers = _layers(masks)
    return sum(size * math.prod(densities) for size, densities in layers) / sum(size for size, _ in layers)


def same_layers(masks: Iterable[Mask]) -> list[Mask]:
    """The masks in a list. MaskError unless all have the same layers, in the same shapes."""
    masks = [as_mask(mask) for mask in masks]
    for mask in masks[1:]:
        odd = sorted(mask.keys() ^ masks[0].keys())
        if odd:
            raise MaskError(f"masks over different layers cannot be compared: only one of them has {odd[0]!r}")
        mask.check_fits(masks[0])
    return masks


def _layers(masks: Iterable[Mask]) -> list[tuple[int, list[float]]]:
    """Number of weights of each layer, and its density in each mask."""
    masks = same_layers(masks)
    if not masks:
        raise SettingError("there is no mask to combine by chance; expected one or more")
    by_mask = [mask.layer_densities() for mask in masks]
    return [(layer.numel(), [densities[name] for densities in by_mask]) for name, layer in masks[0].items()]


def _checked(densities: Iterable[float]) -> list[float]:
    if not isinstance(densities, Iterable):
        raise SettingError(f"densities are {densities!r}; expected several, such as [0.2, 0.2]")
    densities = list(densities)
    if not densities:
        raise SettingError("there is no density to combine by chance; expected one or more, such as 0.2")
    for density in densities:
        if not isinstance(density, numbers.Real) or not 0 <= density <= 1:
            raise SettingError(f"a density is {density!r}; expected a number from 0 to 1")
    return densities


def _union(densities: Sequence[float]) -> float:
    # Not 1 − Π(1 − d): that loses the digits of small densities.
    union = 0.0
    for density in densities:
        union += density * (1 - union)
    return union


def _jaccard(intersection: float, union: float) -> float:
    return intersection / union if union else 1.0


def _mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
