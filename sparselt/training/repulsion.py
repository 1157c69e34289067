"""A loss that repels a training from earlier solutions, or attracts it to them (Maene et al. 2021)."""

import math
import numbers
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask


class Repulsion:
    """(strength / R) · Σ cos²(θ ⊙ m, θᵣ ⊙ m) over R previous solutions θᵣ, to be added to the loss of a network θ.

    The paper divides by |Θ|. We read this as the number of previous solutions: a cosine does not grow with the number
    of weights, so divided by that number it would vanish beside the loss of the data.

    Args:
        solutions: the weights of each previous solution, by parameter name; state dicts will do.
        mask: m, the present network's mask. Weights of solutions outside it do not count.
        strength: λ. The paper repels with 2 and attracts with −1.

    `repulsion(model)` is a differentiable scalar tensor in the model's dtype, between 0 and strength; with
    `train(..., penalty=repulsion)` it is part of every step. It is NaN if all live weights are zero. Memory: one vector
    of all masked layers for each solution, moved to the model's device and dtype at the first call.

    Raises:
        SettingError: no solution; a strength that is zero or not finite; a solution whose live weights are all zero,
            so that it has no direction.
        MaskError: a solution, or later a model, does not fit the mask.
        TrainingError: a solution with a live weight that is not finite.
    """

    def __init__(self, solutions: Iterable[Mapping[str, Tensor]], mask: Mask, strength: float):
        solutions, mask = list(solutions), as_mask(mask)
        if not solutions:
            raise SettingError("there is no previous solution to be repelled from; give the weights of one or more")
        if not (isinstance(strength, numbers.Real) and math.isfinite(strength) and strength):
            raise SettingError(f"strength is {strength!r}; expected a number, above 0 to repel and below to attract")
        for solution in solutions:
            mask.check_fits(solution)
        self.strength: float = strength
        self._mask: Mask = mask
        self._directions: Tensor = torch.stack([_direction(solution, mask, r) for r, solution in enumerate(solutions)])
        self._alive: Tensor = torch.cat([layer.reshape(-1) for layer in mask.values()])
        self._checked: nn.Module | None = None
        self._owners: list[tuple[nn.Module, str]] = []

    def __call__(self, model: nn.Module) -> Tensor:
        if model is not self._checked:
            parameters = dict(model.named_parameters())
            self._mask.check_fits(parameters)
            like = parameters[next(iter(self._mask))]
            self._directions, self._alive = self._directions.to(like), self._alive.to(like)
            # Looking up each parameter by its full name would take a fifth of the penalty's time on a small network.
            parts = [name.rpartition(".") for name in self._mask]
            self._owners = [(model.get_submodule(path), name) for path, _, name in parts]
            self._checked = model
        layers = [getattr(module, name).reshape(-1) for module, name in self._owners]
        weights = torch.cat(layers) * self._alive
        # Two products give all squared cosines; autograd takes half the time of norms and means.
        projections = self._directions @ weights
        return projections.dot(projections) / weights.dot(weights) * (self.strength / len(projections))


def _direction(solution: Mapping[str, Tensor], mask: Mask, position: int) -> Tensor:
    """The solution's live weights as one unit vector, computed in float64; masked weights are zero."""
    layers = []
    for name, layer in mask.items():
        weight = solution[name].detach()
        weight = torch.where(layer.to(weight.device), weight.double(), 0.0)
        if not torch.isfinite(weight).all():
            raise TrainingError(f"{name!r} of solution {position} holds weights that are not finite; it diverged")
        layers.append(weight.reshape(-1))
    vector = torch.cat(layers)
    length = vector.norm()
    if not length:
        raise SettingError(f"solution {position} is zero on all {mask.live} live weights; leave it out")
    return (vector / length).to(solution[next(iter(mask))].dtype)
