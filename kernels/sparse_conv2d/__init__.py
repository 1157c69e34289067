"""sparse_conv2d: a convolution that costs what its live weights cost, and its gradients. On a CPU only.

For images x, weight w and the live weights L of a mask, with zeros outside the image::

    y[n, o, i, j] = Σ w[o, c, k, l]·x[n, c, stride·i + k - padding, stride·j + l - padding]  over (o, c, k, l) in L

The gradient of x is the same sum over the transposed list; that of w is computed where w is live, and 0 elsewhere.
Images are tiles of 64 (`sparselt.kernels.tiles`), so each live weight is multiplied with whole vectors of images. The
idea is SparseProp's (Nikdan et al. 2023, section 3): data with the batch innermost make unstructured sparsity regular.

Operations: 2·N·height·width of the output for each live weight, forward; as many for each gradient. Zeros of the
padding are not multiplied. Bytes moved, at the least, in float32: 4 for each number of the input and of the output.
Every number is summed in one order, so the result depends neither on the number of threads nor on the width of the
processor's vectors. bfloat16 images are summed in float32 and rounded once.

There is no GPU implementation: unstructured sparsity does not pay there, where dense convolutions have tensor cores.
"""

import torch
from torch import Tensor

from .._library import implement, refuse_forward_mode
from .._vectors import BLOCK
from .lists import Pattern, output_size, pattern_of

__all__ = ["Pattern", "pattern_of", "sparse_conv2d", "sparse_linear"]

_library = torch.library.Library("sparselt", "FRAGMENT")
_lists = "Tensor starts, Tensor weights, Tensor back_starts, Tensor back_weights, int stride, int padding"
_library.define(f"sparse_conv2d(Tensor input, Tensor weight, {_lists}) -> Tensor")
_library.define(f"sparse_conv2d_input(Tensor gradient, Tensor weight, SymInt height, SymInt width, {_lists}) -> Tensor")
_library.define(f"sparse_conv2d_weight(Tensor input, Tensor gradient, Tensor weight, {_lists}) -> Tensor")


def sparse_conv2d(input: Tensor, weight: Tensor, pattern: Pattern, *, padding: int = 0) -> Tensor:
    """The convolution of tiles, [blocks, height, width, out_channels, 64] in the input's dtype.

    Differentiable any number of times, in reverse mode.
    input: tiles [blocks, height, width, in_channels, 64]; float32 or bfloat16 with a float32 weight, or both float64.
    weight: [out_channels, in_channels, height, width]. What it holds where it is masked is not read.
    pattern: of `pattern_of(live, stride)`, for the weight's shape.
    padding: zeros around the image, on every side.
    Raises ValueError or TypeError for arguments that do not fit; NotImplementedError on a GPU.
    """
    _check(input, weight, pattern, padding)
    refuse_forward_mode("sparse_conv2d", input, weight)
    lists = pattern.starts, pattern.weights, pattern.back_starts, pattern.back_weights
    return torch.ops.sparselt.sparse_conv2d(input, weight, *lists, pattern.stride, padding)


def sparse_linear(input: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """A linear layer on tiles of one position: [blocks, 1, 1, out, 64]. See `sparse_conv2d`.

    input: [blocks, 1, 1, in, 64]. weight: [out, in]. pattern: of `pattern_of(live)`. bias: [out].
    """
    if weight.dim() != 2 or input.dim() != 5 or input.shape[1:3] != (1, 1):
        raise ValueError(
            f"input is {tuple(input.shape)}, weight {tuple(weight.shape)}: expected [blocks, 1, 1, in, 64], [out, in]"
        )
    out = sparse_conv2d(input, weight[:, :, None, None], pattern)
    return out if bias is None else out + bias.to(out.dtype)[:, None]


def _check(input: Tensor, weight: Tensor, pattern: Pattern, padding: int) -> None:
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern is a {type(pattern).__name__}: expected what pattern_of(live) returns")
    for name, tensor in (("input", input), ("weight", weight), ("pattern", pattern.starts)):
        if tensor.device.type not in ("cpu", "meta"):
            raise NotImplementedError(
                f"{name} is on {tensor.device}: sparse_conv2d runs on a CPU only, because unstructured sparsity does "
                "not pay on a GPU; use torch's dense convolution there"
            )
    expected = torch.float64 if input.dtype == torch.float64 else torch.float32
    if input.dtype not in (torch.float32, torch.float64, torch.bfloat16) or weight.dtype != expected:
        raise TypeError(
            f"input is {input.dtype}, weight {weight.dtype}: expected float32 or bfloat16 with float32, or both float64"
        )
    if tuple(weight.shape) != tuple(pattern.shape):
        raise ValueError(
            f"weight is {tuple(weight.shape)}: expected {tuple(pattern.shape)}, the shape of the pattern's mask"
        )
    if input.dim() != 5 or input.shape[3:] != (weight.shape[1], BLOCK):
        raise ValueError(
            f"input is {tuple(input.shape)}: expected tiles [blocks, height, width, {weight.shape[1]}, {BLOCK}], see "
            "sparselt.kernels.tiles.enter"
        )
    if not isinstance(padding, int) or padding < 0:
        raise ValueError(f"padding is {padding!r} pixels: expected a whole number from 0 on, for every side")
    for size, kernel, name in zip(input.shape[1:3], weight.shape[2:], ("height", "width"), strict=True):
        if size + 2 * padding < kernel:
            raise ValueError(f"the {name} of the input, {size} with padding {padding}, is below the kernel's, {kernel}")


for _operator, _function in (
    ("sparse_conv2d", "forward"),
    ("sparse_conv2d_input", "backward_input"),
    ("sparse_conv2d_weight", "backward_weight"),
):
    implement(_library, _operator, __name__, _function, gpu=False)


@torch.library.register_fake("sparselt::sparse_conv2d", lib=_library)
def _fake(input, weight, starts, weights, back_starts, back_weights, stride, padding) -> Tensor:
    sizes = [output_size(n, k, stride, padding) for n, k in zip(input.shape[1:3], weight.shape[2:], strict=True)]
    return input.new_empty(len(input), *sizes, len(weight), BLOCK)


@torch.library.register_fake("sparselt::sparse_conv2d_input", lib=_library)
def _fake_input(gradient, weight, height, width, *_lists) -> Tensor:
    return gradient.new_empty(len(gradient), height, width, weight.shape[1], BLOCK)


@torch.library.register_fake("sparselt::sparse_conv2d_weight", lib=_library)
def _fake_weight(input, gradient, weight, *_lists) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


# The output is linear in the input and in the weight, so the gradient of each operator is made of the two others. Each
# takes two tensors, then perhaps a size, then the lists, stride and padding.


def _save(ctx, inputs, output) -> None:
    *lists, ctx.stride, ctx.padding = inputs[-6:]
    ctx.save_for_backward(*inputs[:2], *lists)
    ctx.others = len(inputs) - 2


def _saved(ctx) -> tuple[Tensor, Tensor, list]:
    first, second, *lists = ctx.saved_tensors
    return first, second, [*lists, ctx.stride, ctx.padding]


def _backward(ctx, gradient: Tensor) -> tuple:
    (input, weight, lists), ops, needed = _saved(ctx), torch.ops.sparselt, ctx.needs_input_grad
    by_input = ops.sparse_conv2d_input(gradient, weight, *input.shape[1:3], *lists) if needed[0] else None
    by_weight = ops.sparse_conv2d_weight(input, gradient, weight, *lists) if needed[1] else None
    return by_input, by_weight, *[None] * ctx.others


def _backward_input(ctx, by_input: Tensor) -> tuple:
    (gradient, weight, lists), ops, needed = _saved(ctx), torch.ops.sparselt, ctx.needs_input_grad
    by_gradient = ops.sparse_conv2d(by_input, weight, *lists) if needed[0] else None
    by_weight = ops.sparse_conv2d_weight(by_input, gradient, weight, *lists) if needed[1] else None
    return by_gradient, by_weight, *[None] * ctx.others


def _backward_weight(ctx, by_weight: Tensor) -> tuple:
    (input, gradient, lists), ops, needed = _saved(ctx), torch.ops.sparselt, ctx.needs_input_grad
    by_input = ops.sparse_conv2d_input(gradient, by_weight, *input.shape[1:3], *lists) if needed[0] else None
    by_gradient = ops.sparse_conv2d(input, by_weight, *lists) if needed[1] else None
    return by_input, by_gradient, *[None] * ctx.others


for _operator, _formula in (
    ("sparse_conv2d", _backward),
    ("sparse_conv2d_input", _backward_input),
    ("sparse_conv2d_weight", _backward_weight),
):
    torch.library.register_autograd(f"sparselt::{_operator}", _formula, setup_context=_save, lib=_library)
