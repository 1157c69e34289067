"""How live weights are distributed around zero: Maene et al. 2021 see two humps where training is stable, else one.

Two numbers tell two humps from one. `bimodality` is Sarle's bimodality coefficient of the weights, each layer divided
by its root mean square: 1/3 for a normal distribution, 5/9 for a uniform one, 1 for two points. The layers' scales
differ by an order of magnitude; undivided, their mixture has tails that hide the humps. `threshold_ratio` is the next
level's pruning threshold over the median magnitude. It is near 1 where there is a gap around zero; normal weights have
0.38 at a fraction of 20%.
"""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask
from sparselt.pruning import pruning_threshold
from sparselt.scopes import count_to_prune


@dataclass(frozen=True)
class WeightHistogram:
    """Live weights, as they are, counted in bins of equal width from −limit to limit.

    edges: bins + 1 numbers; counts: bins numbers, each bin with its lower edge and the last with both.
    outside: live weights beyond the limit, in no bin.
    threshold: the magnitude up to which the next level prunes, see `sparselt.pruning.pruning_threshold`.
    threshold_ratio, bimodality: see the module; NaN where they are not defined.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    outside: int
    threshold: float
    threshold_ratio: float
    bimodality: float


def weight_histogram(
    weights: Mapping[str, Tensor],
    mask: Mask,
    *,
    bins: int = 101,
    limit: float | None = None,
    fraction: float = 0.2,
) -> WeightHistogram:
    """The histogram of the live weights of all masked layers together.

    Args:
        weights: by parameter name, such as a state dict.
        bins: how many; an odd number has one bin around zero.
        limit: upper edge of the last bin, to compare networks in the same bins; default: the largest live magnitude.
        fraction: share of the live weights that the next level prunes.

    Raises:
        SettingError: no live weight, only zeros without a limit, bins below 1, a limit not above 0, or a fraction
            outside (0, 1).
        MaskError: weights of another model than the mask's.
        TrainingError: a live weight that is NaN or infinite, with the layer's name.
    """
    if not (isinstance(bins, int) and bins >= 1):
        raise SettingError(f"a histogram has {bins!r} bins; expected a whole number from 1")
    mask = as_mask(mask)
    mask.check_fits(weights)
    layers = [weights[name].detach().cpu()[layer.cpu()].double() for name, layer in mask.items()]
    if not sum(map(len, layers)):
        raise SettingError("no weight is alive in the mask, so there is nothing to count; choose another mask")
    for name, layer in zip(mask, layers, strict=True):
        if not layer.isfinite().all():
            raise TrainingError(f"{name!r} holds live weights that are not finite; the training diverged")
    threshold = pruning_threshold(weights, mask, fraction)
    values = torch.cat(layers).numpy()
    if limit is None:
        limit = float(np.abs(values).max())
        if not limit:
            raise SettingError("all live weights are zero, so the histogram has no width; give a limit")
    if not (isinstance(limit, numbers.Real) and math.isfinite(limit) and limit > 0):
        raise SettingError(f"limit of the histogram is {limit!r}; expected a number above 0")
    counts, edges = np.histogram(values, bins=bins, range=(-limit, limit))
    median = float(np.median(np.abs(values)))
    return WeightHistogram(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        outside=len(values) - int(counts.sum()),
        threshold=threshold,
        threshold_ratio=threshold / median if median else math.nan,
        bimodality=bimodality_coefficient(torch.cat([_in_own_scale(layer) for layer in layers])),
    )


def pruned_size(weights: Mapping[str, Tensor], mask: Mask, fraction: float) -> float:
    """The size of the weights that the next pruning removes: their root mean square over that of all live weights.

    Ours, for the finding of Paul et al. 2022 (ICLR version) that retraining makes new small weights to prune. The live
    weights with the smallest magnitudes of all layers together go, `fraction` of them. 0 if they are all 0, 1 if all
    magnitudes are equal.

    Raises:
        MaskError: weights of another model than the mask's.
        SettingError: no live weight, or all are 0.
    """
    mask = as_mask(mask)
    mask.check_fits(weights)
    squares = torch.cat([weights[name][layer].detach().cpu().double().square() for name, layer in mask.items()])
    if not len(squares) or not squares.any():
        raise SettingError("no weight is alive in the mask, or all are zero, so that none is smaller than another")
    count = count_to_prune(fraction, len(squares))
    return float((squares.sort().values[:count].mean() / squares.mean()).sqrt())


def magnitude_shares(weights: Mapping[str, Tensor], mask: Mask, bins: int) -> list[tuple[float, float]]:
    """For bins of equal width from 0 to 3, the middle and the share of the live weights whose magnitude lies there.

    Magnitudes are those of all masked layers together, over their root mean square; larger ones are in no bin.
    """
    values = torch.cat([weights[name][layer].detach().cpu().double().abs() for name, layer in as_mask(mask).items()])
    counts, edges = np.histogram((values / values.square().mean().sqrt()).numpy(), bins=bins, range=(0, 3))
    middles = (edges[1:] + edges[:-1]) / 2
    return list(zip(middles.tolist(), (counts / len(values)).tolist(), strict=True))


def bimodality_coefficient(values: Tensor) -> float:
    """Sarle's bimodality coefficient (g² + 1) / (k + 3(n − 1)² / ((n − 2)(n − 3))) of n numbers, in float64.

    g is the sample skewness and k the sample excess kurtosis, both with their corrections for n (Pfister et al. 2013,
    "Good things peak in pairs"). Above 5/9, its value for a uniform distribution, it suggests more than one mode. NaN
    for fewer than 4 numbers, or if all are equal.
    """
    values = values.detach().double().flatten()
    n = len(values)
    if n < 4 or values.min() == values.max():
        return math.nan
    centred = values - values.mean()
    second, third, fourth = (float(centred.pow(power).mean()) for power in (2, 3, 4))
    skewness = third / second**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / second**2 - 3) + 6)
    return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def _in_own_scale(layer: Tensor) -> Tensor:
    scale = layer.square().mean().sqrt() if len(layer) else torch.ones(())
    return layer / scale if scale > 0 else layer
