"""conv_bn in plain torch, network by network. Any floating dtype; differentiable."""

import torch
from torch import Tensor
from torch.nn import functional as F


def conv_bn(
    input: Tensor, weight: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, stride: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """See `sparselt.kernels.conv_bn`."""
    outs = []
    for k in range(len(input)):
        images = input[k]
        if scale is not None and shift is not None:
            images = (images * scale[k] + shift[k]).clamp(min=0)
        kernel = weight[k].permute(0, 3, 1, 2)
        out = F.conv2d(images.permute(0, 3, 1, 2), kernel, stride=stride, padding=weight.shape[2] // 2)
        outs.append(out.permute(0, 2, 3, 1))
    stacked = torch.stack(outs)
    return stacked, stacked.mean((1, 2, 3)), stacked.var((1, 2, 3), unbiased=False)
