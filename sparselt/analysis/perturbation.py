"""Moves a network in a random direction, to test its robustness early in training (Paul et al. 2022, appendix D)."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import SettingError
from sparselt.masks import Mask, as_mask, random_generator


def perturbed(state: Mapping[str, Tensor], mask: Mask, distance: float, seed: int) -> dict[str, Tensor]:
    """`state` moved by `distance` in a random direction of its live weights; everything else is as it was.

    The direction is uniform over all directions: a standard normal draw for each weight, from `seed` and the layer's
    name only, scaled to the distance over all layers together. If one mask is part of another, its direction is the
    same part of the other's. Paul et al. 2022 move the dense network at the rewind point by `projection_distance`; they
    do not say how the direction is drawn.

    Args:
        state: a state dict; not changed. Tensors that do not move are shared with the result.
        mask: the live weights, which may move; `Mask.ones_like(model)` for a dense network. Where pruned, `state` keeps
            what it has, exactly 0.0 in a pruned network.
        distance: the L2 norm of the move in float64, 0 or more; the weights round it.

    Raises:
        MaskError: a mask of another network.
        SettingError: a distance that is negative, not finite, or beyond the weights' dtype; no live weight.
    """
    mask = as_mask(mask)
    mask.check_fits(state)
    if not (math.isfinite(distance) and distance >= 0):
        raise SettingError(f"perturbation distance is {distance!r}; expected a number of 0 or more")

    def draw(name: str) -> np.ndarray:
        return random_generator(f"{seed}/{name}").standard_normal(mask[name].numel())

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy draws without the interpreter lock
        draws = dict(zip(mask, pool.map(draw, mask), strict=True))
    moves = {name: torch.from_numpy(draws.pop(name)).view(layer.shape) * layer.cpu() for name, layer in mask.items()}
    norm = math.sqrt(sum(float(move.square().sum()) for move in moves.values()))
    if norm == 0:
        raise SettingError("no weight is alive in the mask, so nothing can be perturbed")
    moved = dict(state)
    for name, move in moves.items():
        weight = state[name]
        there = (weight.double() + (move * (distance / norm)).to(weight.device)).to(weight.dtype)
        if (weight.isfinite() & ~there.isfinite()).any():
            raise SettingError(f"a distance of {distance!r} takes {name!r} beyond {weight.dtype}; choose a smaller one")
        moved[name] = torch.where(mask[name].to(weight.device), there, weight)
    return moved


def projection_distance(state: Mapping[str, Tensor], mask: Mask) -> float:
    """‖w - m ⊙ w‖, the L2 distance that applying `mask` moves the network by; over the mask's layers.

    Appendix D of Paul et al. 2022 takes it at the rewind point under the mask of level 1: pruning is a perturbation of
    this length, and random ones of the same length are compared with it.

    Raises:
        MaskError: a mask of another network.
    """
    mask = as_mask(mask)
    mask.check_fits(state)
    pruned = (state[name].double().masked_fill(layer.to(state[name].device), 0.0) for name, layer in mask.items())
    return math.sqrt(sum(float(weight.square().sum()) for weight in pruned))
