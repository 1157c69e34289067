"""Batch norm whose statistics are those of the whole batch, over all ranks; torch's own runs on GPUs only."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def synchronize_batch_norm_(model: nn.Module) -> None:
    """Turns the `BatchNorm2d` layers of `model` into synchronized ones, in place; names and state stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SynchronizedBatchNorm2d


class _SynchronizedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        normalized, mean, variance, count = _Normalize.apply(input, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), rate)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), rate)
        if self.weight is None:
            return normalized.to(input.dtype)
        scale, shift = (_of_channels(p, normalized) for p in (self.weight, self.bias))
        return torch.addcmul(shift, normalized, scale).to(input.dtype)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps), of [N, C, H, W] over N, H, W and all ranks.

    With y the result and g its gradient, the gradient of x is (g - mean(g) - y · mean(g · y)) / sqrt(variance + eps)
    (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        count = wide.new_tensor([x.numel() / x.shape[1]])
        count, mean = _summed([count, wide.sum((0, 2, 3))])
        mean = mean / count
        centred = wide - _of_channels(mean, x)
        (squares,) = _summed([centred.square().sum((0, 2, 3))])
        variance = squares / count
        scale = torch.rsqrt(variance + eps)
        normalized = centred * _of_channels(scale, x)
        ctx.save_for_backward(normalized, scale, count)
        ctx.dtype = x.dtype
        ctx.mark_non_differentiable(mean, variance, count)
        return normalized, mean, variance, count

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normalized, scale, count = ctx.saved_tensors
        mean, product = _summed([g.sum((0, 2, 3)), (g * normalized).sum((0, 2, 3))])
        mean, product = (_of_channels(total / count, g) for total in (mean, product))
        return ((g - mean - normalized * product) * _of_channels(scale, g)).to(ctx.dtype), None


def _summed(parts: Sequence[Tensor]) -> list[Tensor]:
    """The sums over the ranks, in one exchange."""
    flat = torch.cat(list(parts))
    distributed.all_reduce(flat)
    return list(flat.split([len(part) for part in parts]))


def _of_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))
