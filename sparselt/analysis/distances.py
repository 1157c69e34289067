"""How far apart networks are: L2 distance and angle (Frankle et al. 2019), angular distance (Maene et al. 2021).

All are taken over the live weights of a mask, with all layers as one vector, without biases and normalization. Sums are
in float64. The angle to a zero vector is NaN.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparselt.analysis.overlap import same_layers
from sparselt.errors import SettingError
from sparselt.masks import Mask, as_mask


def l2_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor], mask: Mask) -> float:
    """‖(first − second) ⊙ mask‖₂: the stability to pruning or to data order of Frankle et al. 2019 (Stabilizing).

    Args:
        first, second: weights by parameter name, such as state dicts.
        mask: the weights that count. For stability to pruning: the subnetwork's mask, which restricts the full network.

    Raises:
        MaskError: weights that lack a layer of the mask, or have it in another shape.
        SettingError: weights that are not tensors by name, such as a model.
    """
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in _layers(first, second, mask)))


def angle(first: Mapping[str, Tensor], second: Mapping[str, Tensor], mask: Mask) -> float:
    """Angle between first ⊙ mask and second ⊙ mask in degrees, in [0, 180] (Frankle et al. 2019, Stabilizing).

    Arguments and errors as for `l2_distance`.
    """
    layers = list(_layers(first, second, mask))
    lengths = [math.sqrt(sum(float(pair[i].square().sum()) for pair in layers)) for i in range(2)]
    if not all(lengths):
        return math.nan
    # Half the angle has the tangent ‖u − v‖ / ‖u + v‖ for unit vectors: exact also where a cosine is nearly 1.
    apart = sum(float((a / lengths[0] - b / lengths[1]).square().sum()) for a, b in layers)
    together = sum(float((a / lengths[0] + b / lengths[1]).square().sum()) for a, b in layers)
    return math.degrees(2 * math.atan2(math.sqrt(apart), math.sqrt(together)))


def angular_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor], mask: Mask) -> float:
    """2 · angle / π with the angle in radians, in [0, 2] (Maene et al. 2021): 1 for orthogonal weights, 0 for parallel.

    Arguments and errors as for `l2_distance`.
    """
    return angle(first, second, mask) / 90


def angular_distance_matrix(
    states: Sequence[Mapping[str, Tensor]],
    masks: Sequence[Mask],
    initialization: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Angular distance of all pairs of networks, each pair on its shared weights (Maene et al. 2021).

    Args:
        states: N networks, for example the solutions of successive levels of iterative magnitude pruning.
        masks: the mask of each; a pair shares the weights that are alive in both.
        initialization: dense weights, as last row and column, like the paper's figure.

    Returns:
        float64 [N, N] on the CPU, or [N + 1, N + 1] with an initialization; symmetric, with 0 on the diagonal. NaN if a
        pair shares no weight, or a network is zero on the shared weights. Distances are exact to 1e-7; for smaller
        ones see `angular_distance`.

    Raises:
        SettingError: no network, or not as many masks as networks.
        MaskError: weights that do not fit their mask, or masks over different layers.
    """
    states, masks = list(states), same_layers(masks)
    if not states or len(states) != len(masks):
        raise SettingError(f"{len(states)} networks with {len(masks)} masks: expected one mask each, and a network")
    for state, mask in zip(states, masks, strict=True):
        mask.check_fits(state)
    if initialization is not None:
        masks[0].check_fits(initialization)
    count = len(states) + (initialization is not None)
    products = torch.zeros(count, count, dtype=torch.float64)
    squares = torch.zeros_like(products)  # [i, j]: the squared length of network i on the weights shared with j
    for name in masks[0]:
        alive = torch.stack([mask[name].reshape(-1).cpu() for mask in masks]).double()
        weights = torch.stack([state[name].detach().reshape(-1).cpu().double() for state in states])
        weights = torch.where(alive > 0, weights, 0.0)
        if initialization is not None:
            alive = torch.cat([alive, torch.ones_like(alive[:1])])
            weights = torch.cat([weights, initialization[name].detach().reshape(1, -1).cpu().double()])
        products += weights @ weights.T
        squares += weights.square() @ alive.T
    # A length of zero makes 0 / 0, which is the NaN of the docstring.
    cosines = products / (squares.sqrt() * squares.T.sqrt())
    distances = cosines.clamp(-1, 1).acos() * (2 / math.pi)
    diagonal = torch.where(distances.diagonal().isnan(), math.nan, 0.0)
    return distances.diagonal_scatter(diagonal.double())


def _layers(first: Mapping[str, Tensor], second: Mapping[str, Tensor], mask: Mask):
    """The live weights of each layer in both networks, in float64."""
    mask = as_mask(mask)
    mask.check_fits(first)
    mask.check_fits(second)
    for name, layer in mask.items():
        a, b = first[name].detach(), second[name].detach()
        yield a[layer.to(a.device)].cpu().double(), b[layer.to(b.device)].cpu().double()
