"""conv_bn: a convolution of K networks in one launch, between the batch norm before it and the batch norm after it.

For each network, with input x, weight w, and scale s and shift t of each input channel::

    y = convolution(max(0, s · x + t), w)        mean, var = mean and biased variance of y, by channel

without s and t: y = convolution(x, w). A 3×3 kernel is padded by 1, a 1×1 kernel is not; no groups, no bias.
Batch norm (Ioffe & Szegedy 2015, algorithm 1) of an output is s = gamma / sqrt(var + eps) and t = beta - mean · s. They
are given to the next convolution, so no normalized tensor is written. Gradients go through mean, var, s and t as well,
so those few numbers are ordinary torch arithmetic::

    y, mean, var = conv_bn(x, first)
    s = gamma * torch.rsqrt(var + eps)
    z, mean, var = conv_bn(y, second, s, beta - mean * s)

Numbers read and written, of an input of i numbers and an output of o, without weights: forward i + o; gradient of the
weight i + 2 o; gradient of the input 2 i + 2 o. Convolution, batch norm and ReLU one by one, at the least: forward
i + 6 o, backward 2 i + 10 o. `layer.py` counts bytes and operations of a layer.

Sums are made in float32, by tiles whose size and order depend on the layer alone. So equal calls give equal bits, and a
network gets the same bits alone and among others. On a CPU torch's own convolution runs once a network: it is there to
be correct, not to be fast. The GPU kernels (Triton, implicit matrix products, in bfloat16 on matrix instructions) have
run in Triton's interpreter and compile ahead of time. They have never run on a GPU, and no training uses them yet;
`faster_than_library` measures whether one should.
"""

import torch
from torch import Tensor

from .._library import implement, refuse_forward_mode
from .choice import Comparison, is_faster
from .layer import CIFAR_RESNET_20, Layer

__all__ = ["CIFAR_RESNET_20", "Comparison", "Layer", "conv_bn", "faster_than_library"]

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "conv_bn(Tensor input, Tensor weight, Tensor? scale, Tensor? shift, int stride) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "conv_bn_by_weight(Tensor gradient, Tensor out, Tensor? slope, Tensor? offset, Tensor input, Tensor weight, "
    "Tensor? scale, Tensor? shift, int stride) -> Tensor"
)
_library.define(
    "conv_bn_by_input(Tensor gradient, Tensor out, Tensor? slope, Tensor? offset, Tensor input, Tensor weight, "
    "Tensor? scale, Tensor? shift, int stride) -> (Tensor, Tensor)"
)
_TYPES = {"cpu": (torch.float32, torch.bfloat16, torch.float64), "cuda": (torch.float32, torch.bfloat16)}
_MOST = 2**31  # numbers of one network in one tensor: offsets in a network have 32 bits


def conv_bn(
    input: Tensor, weight: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, stride: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (K, N, H', W', Cout) in the input's dtype, and mean and var (K, Cout) of it. Differentiable once.

    input: (K, N, H, W, Cin), channels last; float32 or bfloat16 (on a CPU also float64).
    weight: (K, Cout, 3, 3, Cin) or (K, Cout, 1, 1, Cin) in the same dtype.
    scale, shift: (K, Cin), float32 (float64 with float64), or both None.
    stride: 1 or 2; H' = (H - 1) // stride + 1.
    What belongs to one network is contiguous; networks may lie apart, as in an arena of weights.
    Raises TypeError or ValueError for arguments that do not fit.
    """
    _check(input, weight, scale, shift, stride)
    refuse_forward_mode("conv_bn", input, weight, scale, shift)
    return _ConvBN.apply(input, weight, scale, shift, stride)


def faster_than_library(layer: Layer, networks: int, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether conv_bn is faster here than batch norm, ReLU and convolution of each network by torch.

    Both run forward and backward as CUDA graphs on the current CUDA device, once a process, layer and K; a graph cannot
    be under capture meanwhile. Without a CUDA device False: on a CPU torch's convolution is what runs.
    """
    return torch.cuda.is_available() and is_faster(conv_bn, layer, networks, dtype, torch.cuda.current_device())


def _check(input: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None, stride: int) -> None:
    for name, each in (("input", input), ("weight", weight), ("scale", scale), ("shift", shift)):
        if not isinstance(each, Tensor) and (each is not None or name in ("input", "weight")):
            raise TypeError(f"{name} is a {type(each).__name__}: expected a Tensor")
    kind = input.device.type
    if kind not in _TYPES and kind != "meta":
        raise TypeError(f"input is on {input.device}: expected a CPU or a CUDA device")
    known = _TYPES.get(kind, _TYPES["cpu"])
    if input.dtype not in known or weight.dtype != input.dtype:
        names = ", ".join(str(dtype) for dtype in known)
        raise TypeError(f"input is {input.dtype}, weight {weight.dtype}: expected both one of {names} on {kind}")
    if input.dim() != 5 or not input.numel():
        raise ValueError(f"input is {tuple(input.shape)}: expected (K, N, H, W, Cin) without a 0")
    side = weight.shape[2] if weight.dim() == 5 else 0
    if (
        side not in (1, 3)
        or not weight.numel()
        or weight.shape != (len(input), weight.shape[1], side, side, input.shape[4])
    ):
        raise ValueError(
            f"weight is {tuple(weight.shape)}: expected (K, Cout, side, side, Cin) without a 0, with side 3 or 1 "
            f"and the input's K = {len(input)} and Cin = {input.shape[4]}"
        )
    if isinstance(stride, bool) or not isinstance(stride, int) or stride not in (1, 2):
        raise ValueError(f"stride is {stride!r}: expected 1 or 2")
    for name, tensor in (("input", input), ("weight", weight)):
        if not tensor[0].is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}: expected each network's part to be contiguous")
    if (scale is None) != (shift is None):
        raise ValueError("one of scale and shift is None: expected both or none")
    real = _real(input)
    for name, each in (("scale", scale), ("shift", shift)):
        expected = (real, (len(input), input.shape[4]))
        if each is not None and ((each.dtype, tuple(each.shape)) != expected or not each.is_contiguous()):
            raise ValueError(
                f"{name} is {each.dtype} {tuple(each.shape)} with strides {each.stride()}: expected {expected[0]} "
                f"{expected[1]}, contiguous"
            )
    for name, other in (("weight", weight), ("scale", scale), ("shift", shift)):
        if other is not None and other.device != input.device:
            raise ValueError(f"{name} is on {other.device}: expected {input.device}, where the input is")
    layer = Layer.of(input, weight, stride)
    if max(layer.pixels_in * layer.channels_in, layer.pixels_out * layer.channels_out) >= _MOST:
        raise ValueError(
            f"input {tuple(input.shape)} or its output has 2^31 numbers a network or more: split the batch"
        )


def _real(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


class _ConvBN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, scale, shift, stride):
        out, mean, var = torch.ops.sparselt.conv_bn(input, weight, scale, shift, stride)
        ctx.save_for_backward(input, weight, scale, shift, out, mean)
        ctx.stride = stride
        ctx.set_materialize_grads(False)
        return out, mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, by_mean, by_var):
        input, weight, scale, shift, out, mean = ctx.saved_tensors
        gradient = torch.zeros_like(out) if gradient is None else gradient.to(out.dtype).contiguous()
        slope = offset = None
        if by_mean is not None or by_var is not None:
            # Of a mean each number is one part in `count`; of a variance 2 · (number - mean) parts.
            count = out[0].numel() // out.shape[4]
            slope = torch.zeros_like(mean) if by_var is None else (by_var * (2 / count)).contiguous()
            offset = (-slope * mean if by_mean is None else by_mean / count - slope * mean).contiguous()
        arguments = gradient, out, slope, offset, input, weight, scale, shift, ctx.stride
        by_weight = torch.ops.sparselt.conv_bn_by_weight(*arguments) if ctx.needs_input_grad[1] else None
        by_input = sums = None
        if ctx.needs_input_grad[0] or (scale is not None and any(ctx.needs_input_grad[2:4])):
            by_input, sums = torch.ops.sparselt.conv_bn_by_input(*arguments)
        by_shift, by_scale = (None, None) if scale is None or sums is None else sums.unbind(1)
        return by_input, by_weight, by_scale, by_shift, None


for _operator in ("conv_bn", "conv_bn_by_weight", "conv_bn_by_input"):
    implement(_library, _operator, __name__, _operator)


@torch.library.register_fake("sparselt::conv_bn", lib=_library)
def _fake(input, weight, scale, shift, stride) -> tuple[Tensor, Tensor, Tensor]:
    layer = Layer.of(input, weight, stride)
    out = input.new_empty(len(input), layer.batch, layer.out_height, layer.out_width, layer.channels_out)
    mean, var = (input.new_empty(len(input), layer.channels_out, dtype=_real(input)) for _ in range(2))
    return out, mean, var


@torch.library.register_fake("sparselt::conv_bn_by_weight", lib=_library)
def _fake_by_weight(gradient, out, slope, offset, input, weight, *_others) -> Tensor:
    return weight.new_empty(weight.shape)


@torch.library.register_fake("sparselt::conv_bn_by_input", lib=_library)
def _fake_by_input(gradient, out, slope, offset, input, weight, scale, *_others) -> tuple[Tensor, Tensor]:
    return input.new_empty(input.shape), input.new_empty(len(input), 2, input.shape[4], dtype=_real(input))
