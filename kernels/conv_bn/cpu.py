"""conv_bn on a CPU: torch's own convolution, network by network. It is there to be correct, not to be fast.

Bfloat16 is computed in float32 and rounded once: torch 2.15 gives wrong gradients of weights for bfloat16 images that
are one pixel wide, at stride 2.
"""

import torch
from torch import Tensor

_without_autocast = torch.autocast("cpu", enabled=False)


@_without_autocast
def conv_bn(
    input: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, and mean and variance of its channels. Nothing is checked."""
    padding = weight.shape[2] // 2
    outs = []
    for k in range(len(input)):
        images = _normalized(input, scale, shift, k)
        images, kernel = _channels_second(_wide(images)), _channels_second(_wide(weight[k]))
        out = torch.conv2d(images, kernel, stride=stride, padding=padding)
        outs.append(out.permute(0, 2, 3, 1).contiguous().to(input.dtype))
    out = torch.stack(outs)
    var, mean = zip(*(torch.var_mean(_wide(each), (0, 1, 2), correction=0) for each in outs), strict=True)
    return out, torch.stack(mean), torch.stack(var)


@_without_autocast
def conv_bn_by_weight(
    gradient: Tensor,
    out: Tensor,
    slope: Tensor | None,
    offset: Tensor | None,
    input: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    stride: int,
) -> Tensor:
    """Returns the gradient of the weight. Nothing is checked."""
    found = []
    for k in range(len(input)):
        whole, images = _with_statistics(gradient, out, slope, offset, k), _normalized(input, scale, shift, k)
        found.append(_convolution_backward(whole, images, weight[k], stride, which=1))
    return torch.stack(found)


@_without_autocast
def conv_bn_by_input(
    gradient: Tensor,
    out: Tensor,
    slope: Tensor | None,
    offset: Tensor | None,
    input: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Returns the gradient of the input, and the gradients of shift and scale (K, 2, Cin), 0 without them."""
    found = []
    sums = torch.zeros(len(input), 2, input.shape[4], dtype=_wide(input[:0]).dtype)
    for k in range(len(input)):
        whole, images = _with_statistics(gradient, out, slope, offset, k), _normalized(input, scale, shift, k)
        by_input = _convolution_backward(whole, images, weight[k], stride, which=0)
        if scale is not None and shift is not None:
            number = _wide(input[k])
            by_normal = _wide(by_input).where(number * scale[k] + shift[k] > 0, 0)
            sums[k, 0], sums[k, 1] = by_normal.sum((0, 1, 2)), (by_normal * number).sum((0, 1, 2))
            by_input = (by_normal * scale[k]).to(input.dtype)
        found.append(by_input)
    return torch.stack(found), sums


def _normalized(input: Tensor, scale: Tensor | None, shift: Tensor | None, k: int) -> Tensor:
    if scale is None or shift is None:
        return input[k]
    return (_wide(input[k]) * scale[k] + shift[k]).clamp(min=0).to(input.dtype)


def _with_statistics(gradient: Tensor, out: Tensor, slope: Tensor | None, offset: Tensor | None, k: int) -> Tensor:
    if slope is None or offset is None:
        return gradient[k]
    return (_wide(gradient[k]) + _wide(out[k]) * slope[k] + offset[k]).to(gradient.dtype)


def _convolution_backward(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, which: int) -> Tensor:
    """Gradient of the images (which = 0) or of the weight (which = 1), channels last."""
    found = torch.ops.aten.convolution_backward(
        *(_channels_second(_wide(each)) for each in (gradient, images, weight)),
        None,
        [stride] * 2,
        [weight.shape[1] // 2] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        [which == 0, which == 1, False],
    )
    return found[which].permute(0, 2, 3, 1).contiguous().to(images.dtype)


def _channels_second(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def _wide(numbers: Tensor) -> Tensor:
    return numbers if numbers.dtype == torch.float64 else numbers.float()
