"""Union and intersection of siblings' masks at a given final density (Movva et al. 2021).

Siblings are networks whose trainings differ in data order only.
"""

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask
from sparselt.scopes import Scope, check_scope, erk_counts, shares

__all__ = ["How", "combined_mask"]

How = Literal["union", "intersection"]


def combined_mask(
    weights: Iterable[Mapping[str, Tensor]],
    density: float,
    how: How,
    mask: Mask,
    scope: Scope = "global",
) -> tuple[Mask, float]:
    """The union or intersection of the siblings' magnitude masks, with exactly round(density · mask.size) live weights.

    All siblings are pruned to one common density, chosen so that the combined mask reaches the target size. In terms of
    each sibling's ranks by magnitude: the union (a weight survives in any sibling) keeps the weights whose best rank is
    smallest, the intersection (it survives in all) those whose worst rank is smallest. When each sibling keeps one
    weight more, the combined mask grows by up to as many weights as there are siblings. If only some of the last ones
    fit, those with the smallest sum of ranks stay, and among equal sums the last in layer and row-major order.
    Magnitudes are compared in float32. Equal magnitudes in one sibling rank as in `magnitude_prune`.

    Args:
        weights: the trained weights of each sibling, by parameter name, such as state dicts. All on one device.
        density: of the combined mask over all weights of the masked layers, in (0, 1]. To compare with another mask at
            equal density, give that mask's `.density`.
        mask: the weights that may survive: `Mask.ones_like(model)`, or the previous level's mask.
        scope: `global` ranks all layers together. `layerwise` and `erk` rank each layer on its own: with `layerwise`
            all layers keep the same share of their live weights, up to rounding; with `erk` their shapes decide, see
            `sparselt.scopes.erk_counts`.

    Returns:
        The combined mask, and the density to which each sibling was pruned: at most that of a union, at least that of
        an intersection.

    Raises:
        SettingError: fewer than two siblings; an unknown `how` or scope; a density that is not a number above 0, leaves
            no weight, or exceeds that of `mask`.
        MaskError: a sibling of another model than the mask's.
        TrainingError: a live weight that is NaN or infinite, with the sibling's position and the layer's name.
    """
    if how not in ("union", "intersection"):
        raise SettingError(f"siblings are combined by {how!r}; expected 'union' or 'intersection'")
    check_scope(scope)
    weights, mask = list(weights), as_mask(mask)
    if len(weights) < 2:
        raise SettingError(f"siblings to combine: {len(weights)}; expected the weights of two or more")
    for sibling in weights:
        mask.check_fits(sibling)
    target = _target(density, mask)
    groups = [list(mask)] if scope == "global" else [[name] for name in mask]
    kept: list[Tensor] = []
    pruned_to = 0
    for names, count in zip(groups, _counts(target, mask, scope), strict=True):
        chosen, sibling_count = _chosen(_ranks(weights, names, mask), count, how)
        kept.append(chosen)
        pruned_to += sibling_count
    return mask.keep(torch.cat(kept)), pruned_to / mask.size


def _target(density: float, mask: Mask) -> int:
    if not (isinstance(density, numbers.Real) and math.isfinite(density) and density > 0):
        raise SettingError(f"density of the combined mask is {density!r}; expected a number above 0 and at most 1")
    target = round(density * mask.size)
    if target < 1:
        raise SettingError(f"density {density} leaves none of {mask.size} weights; choose at least {1 / mask.size:.3g}")
    if target > mask.live:
        raise SettingError(
            f"siblings cannot reach density {density}: {target} weights, and only {mask.live} are alive in the mask "
            f"that they start from; choose at most {mask.density:.6g}"
        )
    return target


def _counts(target: int, mask: Mask, scope: Scope) -> list[int]:
    """How many weights all layers keep together (`global`), or each layer."""
    live = [int(layer.sum()) for layer in mask.values()]
    if scope == "global":
        return [target]
    if scope == "erk":
        return erk_counts([layer.shape for layer in mask.values()], live, target)
    return shares(target, live)


def _ranks(weights: Sequence[Mapping[str, Tensor]], names: Sequence[str], mask: Mask) -> Iterator[Tensor]:
    """For each sibling the ranks of the live weights of some layers: int64 [live], 0 for the largest magnitude."""
    for k, sibling in enumerate(weights):
        for name in names:
            if not torch.isfinite(mask.live_values(sibling, [name]).float()).all():
                raise TrainingError(
                    f"cannot prune {name!r} of sibling {k}: it holds weights that are not finite; its training diverged"
                )
        ascending = mask.live_values(sibling, names).detach().float().abs().argsort(stable=True)
        ranks = torch.empty_like(ascending)
        ranks[ascending] = torch.arange(len(ascending) - 1, -1, -1, device=ascending.device)
        yield ranks


def _chosen(ranks: Iterator[Tensor], count: int, how: How) -> tuple[Tensor, int]:
    """The live weights that stay, as bool [live], and how many weights each sibling keeps to reach their number."""
    best = total = next(ranks)
    siblings = 1
    for siblings, more in enumerate(ranks, 2):  # noqa: B007
        best = torch.minimum(best, more) if how == "union" else torch.maximum(best, more)
        total = total + more
    # One key for both orders: no sum of ranks reaches siblings · live.
    key = best * (siblings * len(best)) + total
    order = len(key) - 1 - key.flip(0).argsort(stable=True)  # flipped: among equal keys the last stays
    chosen = torch.zeros(len(key), dtype=torch.bool, device=key.device)
    chosen[order[:count]] = True
    return chosen, int(best[order[:count]].max()) + 1 if count else 0
