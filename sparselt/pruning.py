"""Which weights go: global or layerwise magnitude pruning over the papers' prunable set."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError, TrainingError
from sparselt.kernels import magnitude_mask, magnitude_threshold
from sparselt.masks import Mask, as_mask
from sparselt.weights import prunable_parameters as prunable_parameters

Scope = Literal["global", "layerwise"]
Rule = Literal["exact", "open_lth"]


def magnitude_prune(
    model: nn.Module | Mapping[str, Tensor],
    mask: Mask,
    fraction: float,
    scope: Scope = "global",
    *,
    rule: Rule = "exact",
) -> Mask:
    """The mask without the `fraction` of live weights of smallest magnitude.

    Exactly ⌈fraction · live⌉ weights go (the product rounded to six decimals, against floating point; at least one),
    over all layers together (`global`) or in each layer (`layerwise`). Among equal magnitudes the first in layer and
    memory order go, so that the count is always exact. Magnitudes are compared in float32. Nothing keeps a layer, or of
    few live weights all of them, from going: ask `empty_layers(mask)`, or `mask.live`.

    Args:
        model: the trained network, or a mapping from parameter names to weights (a checkpoint).
        mask: the current mask; already pruned weights are not counted.
        fraction: share of the live weights to prune, in (0, 1). The papers use 0.2 a level.
        scope: `global` ranks all layers together (Paul et al. 2022), `layerwise` each on its own.
        rule: `exact` as above; `open_lth` keeps, as open_lth's pruning/sparse_global.py does, what is strictly greater
            than the magnitude of rank ⌈fraction · live⌉ + 1: one weight less, and none of several equal ones. Only
            with scope `global`.

    Raises:
        SettingError: fraction outside (0, 1), an unknown scope or rule, or one with no weight of the rank it needs.
        MaskError: a mask of another model.
        TrainingError: a live weight that is NaN or infinite, with the layer's name.
    """
    check_fraction(fraction)
    check_scope(scope)
    if rule not in ("exact", "open_lth"):
        raise SettingError(f"pruning rule is {rule!r}; expected 'exact' or 'open_lth'")
    if rule == "open_lth" and scope != "global":
        raise SettingError(f"pruning rule 'open_lth' goes with scope 'global', got {scope!r}; choose rule 'exact'")
    mask = as_mask(mask)
    weights, layers, live = _arguments(model, mask)
    counts = [_to_prune(fraction, number) for number in (live if scope == "layerwise" else [sum(live)])]
    if rule == "open_lth" and counts[0] >= sum(live):
        raise SettingError(f"pruning rule 'open_lth' would leave none of {sum(live)} weights; prune a smaller fraction")
    kept, threshold = magnitude_mask(weights, layers, counts, scope=scope, rule=rule)
    _check_finite(mask, threshold.not_finite)
    return Mask({name: layer.to(mask[name].device) for name, layer in zip(mask, kept, strict=True)})


def pruning_threshold(model: nn.Module | Mapping[str, Tensor], mask: Mask, fraction: float) -> float:
    """The magnitude up to which `magnitude_prune`, with scope `global`, would prune: that of the last weight to go.

    Arguments and errors as of `magnitude_prune`.
    """
    check_fraction(fraction)
    mask = as_mask(mask)
    weights, layers, live = _arguments(model, mask)
    threshold = magnitude_threshold(weights, layers, _to_prune(fraction, sum(live)))
    _check_finite(mask, threshold.not_finite)
    return threshold.value.item()


def check_fraction(fraction: float) -> None:
    """Raises a SettingError unless 0 < fraction < 1."""
    if not (isinstance(fraction, numbers.Real) and 0 < fraction < 1):
        raise SettingError(
            f"pruning fraction is {fraction!r}; expected a number between 0 and 1, such as 0.2 for 20% a level"
        )


def check_scope(scope: str) -> None:
    """Raises a SettingError unless it is a `Scope`."""
    if scope not in get_args(Scope):
        raise SettingError(f"pruning scope is {scope!r}; expected 'global' or 'layerwise'")


def weights_left(sizes: Sequence[int], fraction: float, levels: int, scope: Scope = "global") -> int:
    """How many weights `magnitude_prune` leaves after `levels` prunings of layers of so many weights each."""
    live = list(sizes) if scope == "layerwise" else [sum(sizes)]
    for _ in range(levels):
        live = [number - _to_prune(fraction, number) for number in live]
    return sum(live)


def empty_layers(mask: Mask) -> list[str]:
    """Names of the layers in which no weight is left."""
    return [name for name, layer in mask.items() if not layer.any()]


def _arguments(model, mask: Mask) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Weights and mask of each masked layer on one device, and its number of live weights."""
    weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    mask.check_fits(weights)
    live = [int(torch.count_nonzero(layer)) for layer in mask.values()]
    if not any(live):
        raise SettingError("no weight is left to prune; prune fewer times, or a smaller fraction")
    device = weights[next(iter(mask))].device
    return [weights[name].to(device) for name in mask], [layer.to(device) for layer in mask.values()], live


def _check_finite(mask: Mask, not_finite: Tensor) -> None:
    for name, number in zip(mask, not_finite.tolist(), strict=True):
        if number:
            raise TrainingError(f"cannot prune {name!r}: it holds weights that are not finite; the training diverged")


def _to_prune(fraction: float, live: int) -> int:
    # Rounded before the ceiling: 0.1 · 30 is 3.0000000000000004 in floating point.
    return max(min(live, 1), math.ceil(round(fraction * live, 6)))
