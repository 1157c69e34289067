"""masked_sgd in plain torch, one parameter at a time: slow, obviously right, exact in float64."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from . import Columns


def masked_sgd(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor | None,
    live: Tensor,
    h: "Columns",
    *,
    grad_scale: float = 1.0,
    found_inf: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The new weight and momentum buffer. All tensors of one shape; `live` is bool; buffer None: the first step."""
    if found_inf:
        return weight, buffer
    direction = h.sign * gradient / grad_scale
    if h.weight_decay != 0:
        direction = direction + h.weight_decay * weight
    if h.momentum != 0:
        buffer = direction if buffer is None else h.momentum * buffer + h.keep * direction
        direction = direction + h.momentum * buffer if h.nesterov else buffer
    weight = torch.where(live, h.shrink * weight - h.lr * direction, 0.0)
    return weight, None if buffer is None else torch.where(live, buffer, 0.0)
