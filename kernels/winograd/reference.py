"""winograd_conv2d in plain torch. Any floating dtype; differentiable."""

from torch import Tensor
from torch.nn import functional as F


def winograd_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """See `sparselt.kernels.winograd`."""
    out = F.conv2d(input, weight, bias, padding=1)
    out = out if residual is None else out + residual
    return out.relu() if relu else out
