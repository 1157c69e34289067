"""masked_adam in plain torch, one parameter at a time: slow, obviously right, exact in float64."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from . import Columns


def masked_adam(
    weight: Tensor, gradient: Tensor, state: list[Tensor], live: Tensor, h: "Columns", step: int
) -> tuple[Tensor, list[Tensor]]:
    """The new weight and state. All tensors of one shape; `live` is bool. state: 2 tensors, or 3 with amsgrad."""
    direction = h.sign * gradient
    if h.weight_decay != 0:
        direction = direction + h.weight_decay * weight
    mean = state[0] + h.keep1 * (direction - state[0])
    square = h.beta2 * state[1] + h.keep2 * direction**2
    largest = [torch.maximum(state[2], square)] if len(state) == 3 else []
    divisor = (largest[0] if largest and h.amsgrad else square) / (1 - h.beta2**step)
    update = h.lr * mean / (1 - (1 - h.keep1) ** step) / (divisor.sqrt() + h.eps)
    return torch.where(live, h.shrink * weight - update, 0.0), [
        torch.where(live, t, 0.0) for t in (mean, square, *largest)
    ]
