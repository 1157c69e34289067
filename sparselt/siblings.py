"""Masks of siblings, networks that differ in data order only, combined at a given final density (Movva et al. 2021)."""

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask
from sparselt.pruning import Scope, check_scope

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

    All siblings are pruned to one density, so chosen that the combined mask has the size asked for: the union
    (survives in any) keeps the weights whose best rank by magnitude among the siblings is smallest, the intersection
    (survives in all) those whose worst rank is smallest. One more weight for each sibling adds up to as many weights as
    there are siblings to the combined mask; of those that the last one adds, the weights with the smallest sum of ranks
    stay, then the last in layer and row-major order. Equal magnitudes in one sibling rank as in `magnitude_prune`.
    Magnitudes are compared in float32.

    Args:
        weights: the trained weights of each sibling, by parameter name; state dicts will do. All on one device.
        density: of the combined mask over all weights of the masked layers, in (0, 1]. For a comparison at equal
            density give `.density` of the other mask.
        mask: the weights that may survive: `Mask.ones_like(model)`, or the previous level's mask.
        scope: `global` ranks all layers together; `layerwise` each on its own, and every layer keeps the same share of
            its live weights, as nearly as whole weights allow.

    Returns:
        The combined mask, and the density to which each sibling was pruned: with `union` at most, with `intersection`
        at least that of the combined mask.

    Raises:
        SettingError: fewer than two siblings, an unknown `how` or scope, a density that is no number above 0, leaves
            not one weight, or exceeds that of `mask`.
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
    for names, count in zip(groups, _counts(target, groups, mask), strict=True):
        chosen, sibling_count = _chosen(_ranks(weights, names, mask), count, how)
        kept.append(chosen)
        pruned_to += sibling_count
    return _to_mask(torch.cat(kept), mask), pruned_to / mask.size


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


def _counts(target: int, groups: Sequence[Sequence[str]], mask: Mask) -> list[int]:
    """How many weights each group keeps: the same share of its live ones, the largest remainders rounded up."""
    live = [sum(int(mask[name].sum()) for name in names) for names in groups]
    shares = [divmod(target * number, sum(live)) for number in live]
    counts = [share for share, _ in shares]
    by_remainder = sorted(range(len(groups)), key=lambda i: -shares[i][1])
    for i in by_remainder[: target - sum(counts)]:
        counts[i] += 1
    return counts


def _ranks(weights: Sequence[Mapping[str, Tensor]], names: Sequence[str], mask: Mask) -> Iterator[Tensor]:
    """For each sibling the ranks, 0 for the largest magnitude, of the live weights of some layers: int64 [live]."""
    for k, sibling in enumerate(weights):
        layers = []
        for name in names:
            weight = sibling[name].detach().reshape(-1)
            layer = weight[mask[name].reshape(-1).to(weight.device)].float().abs()
            if not torch.isfinite(layer).all():
                raise TrainingError(
                    f"cannot prune {name!r} of sibling {k}: it holds weights that are not finite; its training diverged"
                )
            layers.append(layer)
        ascending = torch.cat(layers).argsort(stable=True)
        ranks = torch.empty_like(ascending)
        ranks[ascending] = torch.arange(len(ascending) - 1, -1, -1, device=ascending.device)
        yield ranks


def _chosen(ranks: Iterator[Tensor], count: int, how: How) -> tuple[Tensor, int]:
    """Which live weights stay, bool [live], and how many each sibling keeps for that."""
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


def _to_mask(chosen: Tensor, mask: Mask) -> Mask:
    layers = {}
    for name, part in zip(mask, chosen.split([int(layer.sum()) for layer in mask.values()]), strict=True):
        layer = torch.zeros(mask[name].numel(), dtype=torch.bool, device=mask[name].device)
        layer[mask[name].reshape(-1)] = part.to(layer.device)
        layers[name] = layer.view(mask[name].shape)
    return Mask(layers)
