"""norm_act in plain torch, step by step. Any floating dtype; differentiable."""

import torch
from torch import Tensor


def norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """See `sparselt.kernels.norm_act`."""
    mean = input.mean((0, 2, 3))
    variance = input.var((0, 2, 3), unbiased=False)
    out = (input - mean[:, None, None]) / torch.sqrt(variance + eps)[:, None, None]
    out = weight[:, None, None] * out + bias[:, None, None]
    if residual is not None:
        out = out + residual
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean += momentum * (mean - running_mean)
            running_var += momentum * (input.var((0, 2, 3)) - running_var)
    return out.clamp(min=0) if relu else out
