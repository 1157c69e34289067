"""Which weights go: global or layerwise magnitude pruning over the papers' prunable set."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask

Scope = Literal["global", "layerwise"]


def prunable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and weight of every convolution and fully connected layer, shortcuts and classifier included.

    Never biases or normalization parameters (the prunable set of Frankle et al. 2019 and Paul et al. 2022). A weight
    that two layers share is yielded once, under its first name.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    weights = {id(module.weight) for module in model.modules() if isinstance(module, kinds)}
    for name, parameter in model.named_parameters():
        if id(parameter) in weights:
            yield name, parameter


def magnitude_prune(
    model: nn.Module | Mapping[str, Tensor],
    mask: Mask,
    fraction: float,
    scope: Scope = "global",
) -> Mask:
    """The mask without the `fraction` of live weights of smallest magnitude.

    Exactly ⌈fraction · live⌉ weights go, over all layers together (`global`) or in each layer (`layerwise`). Among
    equal magnitudes the first in layer and memory order go, so that the count is always exact.

    Args:
        model: the trained network, or a mapping from parameter names to weights (a checkpoint).
        mask: the current mask; already pruned weights are not counted.
        fraction: share of the live weights to prune, in (0, 1). The papers use 0.2 a level.
        scope: `global` ranks all layers together (Paul et al. 2022), `layerwise` each on its own.

    Raises:
        SettingError: fraction outside (0, 1) or an unknown scope.
        MaskError: a mask of another model.
        TrainingError: a live weight that is NaN or infinite, with the layer's name.
    """
    check_fraction(fraction)
    if scope not in ("global", "layerwise"):
        raise SettingError(f"pruning scope is {scope!r}; expected 'global' or 'layerwise'")
    weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    mask.check_fits(weights)
    scores = {}
    for name, layer in mask.items():
        live = weights[name].detach()[layer.to(weights[name].device)].abs().float().cpu()
        if not torch.isfinite(live).all():
            raise TrainingError(f"cannot prune {name!r}: it holds weights that are not finite; the training diverged")
        scores[name] = live
    if not mask.live:
        raise SettingError("no weight is left to prune; prune fewer times, or a smaller fraction")
    groups = [list(mask)] if scope == "global" else [[name] for name in mask]
    layers: dict[str, Tensor] = {}
    for names in groups:
        keep = _keep_largest(torch.cat([scores[name] for name in names]), fraction)
        for name, kept in zip(names, keep.split([scores[name].numel() for name in names]), strict=True):
            layer = mask[name].clone()
            layer[mask[name]] = kept.to(layer.device)
            layers[name] = layer
    return Mask({name: layers[name] for name in mask})


def check_fraction(fraction: float) -> None:
    """Raises a SettingError unless 0 < fraction < 1."""
    if not (isinstance(fraction, int | float) and 0 < fraction < 1):
        raise SettingError(
            f"pruning fraction is {fraction!r}; expected a number between 0 and 1, such as 0.2 for 20% a level"
        )


def empty_layers(mask: Mask) -> list[str]:
    """Names of the layers in which no weight is left."""
    return [name for name, layer in mask.items() if not layer.any()]


def _keep_largest(scores: Tensor, fraction: float) -> Tensor:
    # Rounded before the ceiling: 0.1 · 30 is 3.0000000000000004 in floating point.
    count = math.ceil(round(fraction * scores.numel(), 6))
    keep = torch.ones_like(scores, dtype=torch.bool)
    if count == 0:
        return keep
    threshold = scores.kthvalue(count).values
    keep[scores < threshold] = False
    ties = torch.nonzero(scores == threshold).flatten()
    keep[ties[: count - int((scores < threshold).sum())]] = False
    return keep
