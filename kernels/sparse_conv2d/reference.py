"""sparse_conv2d and its neighbours in plain torch: slow, obviously right, exact in float64. Gradients by autograd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..tiles import enter, leave


def sparse_conv2d(input: Tensor, weight: Tensor, live: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Tiles of the dense convolution with a masked weight."""
    images = leave(input, len(input) * input.shape[4])
    return enter(F.conv2d(images, torch.where(live, weight, 0.0), stride=stride, padding=padding))


def combine(u: Tensor, v: Tensor | None, p: Tensor, q: Tensor | None, t: Tensor, relu: bool, count: int) -> Tensor:
    """p·u + q·v + t for each channel, max(·, 0) if `relu`; 0 after `count` images."""
    total = p[:, None] * u + t[:, None]
    if v is not None and q is not None:
        total = total + q[:, None] * v
    images = leave(total.relu() if relu else total, count)
    return enter(images)
