"""masked_rmsprop in plain torch, one parameter at a time: slow, obviously right, exact in float64."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from . import Columns


def masked_rmsprop(
    weight: Tensor, gradient: Tensor, state: list[Tensor], live: Tensor, h: "Columns"
) -> tuple[Tensor, list[Tensor]]:
    """The new weight and state. All tensors of one shape; `live` is bool. state: see `OPERATIONS`."""
    direction = h.sign * gradient
    if h.weight_decay != 0:
        direction = direction + h.weight_decay * weight
    square, *rest = state
    new = [h.alpha * square + h.keep * direction**2]
    variance = new[0]
    if h.centered:
        mean = rest.pop(0)
        new.append(mean + h.keep * (direction - mean))
        variance = variance - new[1] ** 2
    update = direction / (variance.sqrt() + h.eps)
    if rest:
        update = h.momentum * rest[0] + update
        new.append(update)
    return torch.where(live, weight - h.lr * update, 0.0), [torch.where(live, t, 0.0) for t in new]
