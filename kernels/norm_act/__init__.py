"""norm_act: batch norm in training mode, an addition and ReLU as one operation forward and one backward.

For input x [N, channels, H, W], with the mean m and the biased variance v of each channel over the batch::

    y = max(0, weight · (x - m) / sqrt(v + eps) + bias + residual)

without the residual where there is none, and without max where `relu` is False (Ioffe & Szegedy 2015, algorithm 1; He
et al. 2016, Fig. 2). The running statistics move by `momentum`, as torch's: towards m, and towards the unbiased
variance.

Numbers read and written for each one of x: forward 2 and 1 (with a residual 3 and 1); backward 4 and 1 (with a residual
and ReLU 5 and 2). torch's batch norm, addition and ReLU at the least: forward 5 and 3, backward 6 and 2. Sums are taken
around the channel's first number, over stretches of memory of a fixed length, and added up in a fixed order (on a CPU
in float64). So results depend neither on the number of threads nor on a mean that is large beside the deviation.
"""

import torch
from torch import Tensor

from .._library import implement, refuse_forward_mode

__all__ = ["norm_act", "unsupported_reason"]

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "norm_act(Tensor input, Tensor weight, Tensor bias, Tensor? residual, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, float momentum, float eps, bool relu) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "norm_act_backward(Tensor gradient, Tensor input, Tensor weight, Tensor bias, Tensor mean, Tensor inverse, "
    "Tensor? out, bool relu) -> (Tensor, Tensor, Tensor, Tensor)"
)
_TYPES = (torch.float32, torch.bfloat16, torch.float64)


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
    """The normalized input, in its dtype and channels last. Differentiable once.

    input: [N, channels, H, W] in torch's channels_last format; float32 or bfloat16 with float32 parameters, or all
        float64.
    weight, bias: [channels]. running_mean, running_var: [channels], updated in place; None: not kept.
    residual: like the input; is added before ReLU.
    Raises ValueError or TypeError for arguments that do not fit.
    """
    if reason := unsupported_reason(input, weight, residual):
        raise TypeError(f"norm_act does not take this: {reason}")
    running = ("running_mean", running_mean), ("running_var", running_var)
    for name, tensor in (("weight", weight), ("bias", bias), *running):
        if tensor is None:
            continue
        if (tensor.shape, tensor.dtype) != (weight.shape, weight.dtype) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}: expected "
                f"{weight.dtype} {tuple(weight.shape)}, contiguous"
            )
    if momentum is None:
        raise TypeError("momentum is None: expected a number, such as 0.1; a cumulative average is not kept")
    if (running_mean is None) != (running_var is None):
        raise ValueError("one of running_mean and running_var is None: expected both or none")
    if input.numel() <= input.shape[1]:
        raise ValueError(f"input is {tuple(input.shape)}: expected more than one number a channel to normalize by")
    refuse_forward_mode("norm_act", input, weight, bias, residual)
    return _NormAct.apply(input, weight, bias, residual, running_mean, running_var, momentum, eps, relu)


def unsupported_reason(input: Tensor, weight: Tensor, residual: Tensor | None = None) -> str:
    """What the operation does not take of these arguments, and what it takes; empty if it takes them."""
    if input.device.type not in ("cpu", "cuda", "meta"):
        return f"input is on {input.device}; expected a CPU or a CUDA device"
    expected = torch.float64 if input.dtype == torch.float64 else torch.float32
    if input.dtype not in _TYPES or weight.dtype != expected:
        return (
            f"input is {input.dtype}, weight {weight.dtype}; expected float32 or bfloat16 with float32, or both float64"
        )
    if input.dim() != 4 or weight.shape != input.shape[1:2]:
        return (
            f"input is {tuple(input.shape)}, weight {tuple(weight.shape)}; expected [N, channels, H, W] and [channels]"
        )
    if not input.is_contiguous(memory_format=torch.channels_last):
        return (
            f"input has strides {input.stride()}; expected channels last: "
            "input.contiguous(memory_format=torch.channels_last)"
        )
    if residual is not None and (
        (residual.shape, residual.dtype, residual.device) != (input.shape, input.dtype, input.device)
        or not residual.is_contiguous(memory_format=torch.channels_last)
    ):
        return (
            f"residual is {residual.dtype} {tuple(residual.shape)} with strides {residual.stride()} on "
            f"{residual.device}; expected {input.dtype} {tuple(input.shape)}, channels last, on {input.device}"
        )
    return ""


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias, residual, running_mean, running_var, momentum, eps, relu):
        out, mean, inverse = torch.ops.sparselt.norm_act(
            input, weight, bias, residual, running_mean, running_var, momentum, eps, relu
        )
        # Without a residual the sign before ReLU follows from the input: nothing else has to be read.
        ctx.save_for_backward(input, weight, bias, mean, inverse, out if relu and residual is not None else None)
        ctx.relu, ctx.added = relu, residual is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        input, weight, bias, mean, inverse, out = ctx.saved_tensors
        gradient = gradient.to(input.dtype).contiguous(memory_format=torch.channels_last)
        by_input, masked, by_weight, by_bias = torch.ops.sparselt.norm_act_backward(
            gradient, input, weight, bias, mean, inverse, out, ctx.relu
        )
        by_residual = None if not ctx.added else gradient if out is None else masked
        return by_input, by_weight, by_bias, by_residual, None, None, None, None, None


implement(_library, "norm_act", __name__, "norm_act")
implement(_library, "norm_act_backward", __name__, "norm_act_backward")


@torch.library.register_fake("sparselt::norm_act", lib=_library)
def _fake(input, weight, *_others) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.register_fake("sparselt::norm_act_backward", lib=_library)
def _fake_backward(gradient, input, weight, bias, mean, inverse, out, relu) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    masked = input.new_empty(0) if out is None else torch.empty_like(input)
    return torch.empty_like(input), masked, torch.empty_like(weight), torch.empty_like(bias)
