"""winograd_conv2d: 3×3 convolutions of stride 1 by Winograd's algorithm F(4×4, 3×3). On a CPU only.

For images x and weights w, with a zero around each image::

    y[n, o, i, j] = bias[o] + Σ w[o, c, k, l]·x[n, c, i + k - 1, j + l - 1]  over c, k, l

then plus a residual and at least 0 where that is asked for. A tile of 4×4 outputs follows from 36 products a pair of
channels, where the sum above takes 144 (Winograd 1980; Lavin & Gray 2016, section 4). Patches of 6×6 inputs, kernels
and products are transformed by sums with small factors, by which rounding errors grow: in float32 results agree to
about 2e-5 of the largest, where the sum agrees to 1e-6. The gradients of input and weight are made the same way.

Bytes moved, at the least, in float32: 4 for each number of the input and of the output. bfloat16 images are computed in
float32 and rounded once, which is more exact than products of bfloat16. What is not finite spreads to
the 4×4 tiles whose patches it is in. Results do not depend on the number of threads, or on the width of the processor's
vectors.

There is no GPU implementation: cuDNN has its own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as conv_grad

from .._library import implement, refuse_forward_mode

__all__ = ["pays", "unsupported_reason", "winograd_conv2d"]

CHANNELS = 16  # both numbers of channels are multiples of it
# Pairs of channels: below, moving the images takes the time; above, the transformed kernels no longer fit the caches.
_PAIRS = {torch.float32: (0, 1 << 16), torch.float64: (0, 1 << 16), torch.bfloat16: (1 << 10, 1 << 15)}
_USED = 0.6  # of the tiles' pixels that are the image's

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define("winograd_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, bool relu) -> Tensor")
_library.define("winograd_conv2d_input(Tensor gradient, Tensor weight) -> Tensor")
_library.define("winograd_conv2d_weight(Tensor input, Tensor gradient) -> Tensor")


def winograd_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """The convolution, [N, out_channels, H, W] in channels last.

    Without residual and ReLU differentiable any number of times, in reverse mode; with them not at all.
    input: [N, in_channels, H, W] in torch's channels_last format, with multiples of 16 channels; float32 or bfloat16
        with float32 weights, or all float64.
    weight: [out_channels, in_channels, 3, 3]. bias: [out_channels], in the weight's dtype.
    residual: like the output, which has the input's dtype; is added before ReLU.
    Raises TypeError for arguments that it does not take.
    """
    if reason := unsupported_reason(input, weight, bias, residual):
        raise TypeError(f"winograd_conv2d does not take this: {reason}")
    refuse_forward_mode("winograd_conv2d", input, weight, bias, residual)
    return torch.ops.sparselt.winograd_conv2d(input, weight, bias, residual, relu)


def pays(input: Tensor, weight: Tensor) -> bool:
    """Whether it takes less time than oneDNN's convolution on the processors that we measured, by dtype and shapes."""
    images, _, height, width = input.shape
    tiles = -(-height // 4) * -(-width // 4)
    fewest, most = _PAIRS[input.dtype]
    if not fewest <= weight.shape[0] * weight.shape[1] <= most or 2 * images * tiles < max(weight.shape[:2]):
        return False
    return height * width >= _USED * 16 * tiles


def unsupported_reason(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
) -> str:
    """What the operation does not take of these arguments, and what it takes; empty if it takes them."""
    if input.device.type not in ("cpu", "meta"):
        return f"input is on {input.device}; expected a CPU (cuDNN has Winograd's algorithm on a GPU)"
    expected = torch.float64 if input.dtype == torch.float64 else torch.float32
    if input.dtype not in _PAIRS or weight.dtype != expected:
        return (
            f"input is {input.dtype}, weight {weight.dtype}; expected float32 or bfloat16 with float32, or both float64"
        )
    shape = tuple(weight.shape)
    if len(shape) != 4 or shape[2:] != (3, 3) or shape[0] % CHANNELS or shape[1] % CHANNELS or not weight.numel():
        return f"weight is {shape}; expected [out_channels, in_channels, 3, 3] with multiples of {CHANNELS} channels"
    if input.dim() != 4 or input.shape[1] != shape[1] or not input.numel():
        return f"input is {tuple(input.shape)}; expected [N, {shape[1]}, H, W], not empty"
    if not input.is_contiguous(memory_format=torch.channels_last):
        return (
            f"input has strides {input.stride()}; expected channels last: "
            "input.contiguous(memory_format=torch.channels_last)"
        )
    if bias is not None and (tuple(bias.shape), bias.dtype, bias.is_contiguous()) != (shape[:1], expected, True):
        return f"bias is {bias.dtype} {tuple(bias.shape)}; expected {expected} {shape[:1]}, contiguous"
    out = len(input), shape[0], *input.shape[2:]
    if residual is not None and (
        (tuple(residual.shape), residual.dtype, residual.device) != (out, input.dtype, input.device)
        or not residual.is_contiguous(memory_format=torch.channels_last)
    ):
        return (
            f"residual is {residual.dtype} {tuple(residual.shape)} with strides {residual.stride()} on "
            f"{residual.device}; expected {input.dtype} {out}, channels last, on {input.device}"
        )
    return ""


for _operator, _function in (
    ("winograd_conv2d", "forward"),
    ("winograd_conv2d_input", "backward_input"),
    ("winograd_conv2d_weight", "backward_weight"),
):
    implement(_library, _operator, __name__, _function, gpu=False)


@torch.library.register_fake("sparselt::winograd_conv2d", lib=_library)
def _fake(input, weight, bias, residual, relu) -> Tensor:
    return _images(input, weight.shape[0])


@torch.library.register_fake("sparselt::winograd_conv2d_input", lib=_library)
def _fake_input(gradient, weight) -> Tensor:
    return _images(gradient, weight.shape[1])


@torch.library.register_fake("sparselt::winograd_conv2d_weight", lib=_library)
def _fake_weight(input, gradient) -> Tensor:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return input.new_empty(gradient.shape[1], input.shape[1], 3, 3, dtype=dtype)


def _images(like: Tensor, channels: int) -> Tensor:
    shape = like.shape[0], channels, *like.shape[2:]
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


# The output is linear in input and weight, so the gradient of each operator is computed by the two others. These
# operators cannot take tensors of vmap. Batches of gradients (`is_grads_batched`, `jacobian(vectorize=True)`) come in
# such tensors, so torch's own convolutions compute them.


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    if len(inputs) > 2:
        ctx.fused = inputs[3] is not None or inputs[4]


def _batched(*tensors: Tensor) -> bool:
    """Whether vmap has made one of the tensors: that of `torch.func`, or the older one that `is_grads_batched` uses."""
    of = torch._C._functorch
    return any(of.is_batchedtensor(tensor) or of.is_legacy_batchedtensor(tensor) for tensor in tensors)


def _last(tensor: Tensor) -> Tensor:
    return tensor if _batched(tensor) else tensor.contiguous(memory_format=torch.channels_last)


def _forward(input: Tensor, weight: Tensor) -> Tensor:
    if _batched(input, weight):
        return F.conv2d(input, weight.to(input.dtype), padding=1)
    return torch.ops.sparselt.winograd_conv2d(input, weight, None, None, False)


def _by_input(gradient: Tensor, weight: Tensor) -> Tensor:
    if _batched(gradient, weight):
        return F.conv_transpose2d(gradient, weight.to(gradient.dtype), padding=1)
    return torch.ops.sparselt.winograd_conv2d_input(gradient, weight)


def _by_weight(input: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    if _batched(input, gradient):
        shape = gradient.shape[1], input.shape[1], 3, 3
        return conv_grad.conv2d_weight(input, shape, gradient, padding=1).to(dtype)
    return torch.ops.sparselt.winograd_conv2d_weight(input, gradient)


def _backward(ctx, gradient: Tensor) -> tuple:
    if ctx.fused:
        raise NotImplementedError(
            "winograd_conv2d has no derivative with a residual or ReLU: call it without, and torch's own after it"
        )
    (input, weight), gradient = ctx.saved_tensors, _last(gradient)
    by_input = _by_input(gradient, weight) if ctx.needs_input_grad[0] else None
    by_weight = _by_weight(input, gradient, weight.dtype) if ctx.needs_input_grad[1] else None
    by_bias = gradient.sum((0, 2, 3), dtype=weight.dtype) if ctx.needs_input_grad[2] else None
    return by_input, by_weight, by_bias, None, None


def _backward_input(ctx, by_input: Tensor) -> tuple:
    (gradient, weight), by_input = ctx.saved_tensors, _last(by_input)
    by_gradient = _forward(by_input, weight) if ctx.needs_input_grad[0] else None
    by_weight = _by_weight(by_input, gradient, weight.dtype) if ctx.needs_input_grad[1] else None
    return by_gradient, by_weight


def _backward_weight(ctx, by_weight: Tensor) -> tuple:
    input, gradient = ctx.saved_tensors
    by_input = _by_input(gradient, by_weight) if ctx.needs_input_grad[0] else None
    by_gradient = _forward(input, by_weight) if ctx.needs_input_grad[1] else None
    return by_input, by_gradient


for _operator, _formula in (
    ("winograd_conv2d", _backward),
    ("winograd_conv2d_input", _backward_input),
    ("winograd_conv2d_weight", _backward_weight),
):
    torch.library.register_autograd(f"sparselt::{_operator}", _formula, setup_context=_save, lib=_library)
