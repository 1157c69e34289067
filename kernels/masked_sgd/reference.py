"""masked_sgd in plain torch, one parameter at a time: slow, obviously right, exact in float64."""

import torch
from torch import Tensor


def masked_sgd(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor | None,
    live: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    shrink: float = 1.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    found_inf: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The new weight and momentum buffer. All tensors of one shape; `live` is bool; buffer None: the first step."""
    if found_inf:
        return weight, buffer
    direction = (-gradient if maximize else gradient) / grad_scale
    if weight_decay != 0:
        direction = direction + weight_decay * weight
    if momentum != 0:
        buffer = direction if buffer is None else momentum * buffer + (1 - dampening) * direction
        direction = direction + momentum * buffer if nesterov else buffer
    weight = torch.where(live, shrink * weight - lr * direction, 0.0)
    return weight, None if buffer is None else torch.where(live, buffer, 0.0)
