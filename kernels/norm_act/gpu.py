"""norm_act on a GPU: two or three Triton launches each way. They sum, settle each channel's numbers, and apply them.

Memory is [pixels, channels]. A program of the first launch sums a stretch of pixels. The stretches are then added up in
their order, so results are the same in every run. For small inputs every program of the last launch adds them up for
itself, which spares a launch; for larger ones that would read more than the input, and a launch of its own does it. The
shape and dtype decide. Not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of

NUMBERS = 2048  # of a tile
_STRETCHES = 1024  # at most
_READ = 2  # of the bytes of the input: what sums may be read again in the last launch, to spare one


def norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, mean and 1 / standard deviation. Nothing is checked."""
    out, mean, inverse = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)
    shape = _Shape(input)
    parts = weight.new_empty(shape.stretches, 2, shape.channels)
    with on_device_of(input):
        sum_kernel[shape.grid_of_sums](input, None, None, None, None, None, parts, *shape.sizes, **shape.sums)
        running = (running_mean, running_var, momentum, eps)
        if not shape.merged:
            settle_kernel[shape.grid_of_channels](parts, input, mean, inverse, *shape.sizes, *running, **shape.settled)
        unsettled = (parts, *running) if shape.merged else (None, None, None, 0.0, 0.0)
        apply_kernel[shape.grid](
            input, residual, out, mean, inverse, weight, bias, *shape.sizes, *unsettled, RELU=relu, **shape.applied
        )
    return out, mean, inverse


def norm_act_backward(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    out: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of input, residual (empty without `out`), weight and bias. Nothing is checked."""
    by_input, by_weight, by_bias = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(bias)
    masked = input.new_empty(0) if out is None else torch.empty_like(input)
    shape = _Shape(input)
    parts = weight.new_empty(shape.stretches, 2, shape.channels)
    # The affine map decides where ReLU was, unless the output does.
    affine = (weight, bias) if relu and out is None else (None, None)
    with on_device_of(input):
        sum_kernel[shape.grid_of_sums](
            input, gradient, mean, inverse, *affine, parts, *shape.sizes, out, masked, **shape.sums
        )
        if not shape.merged:
            settle_kernel[shape.grid_of_channels](
                parts, None, by_bias, by_weight, *shape.sizes, inverse, None, 0.0, 0.0, **shape.settled
            )
        apply_back_kernel[shape.grid](
            input,
            gradient if out is None else masked,
            by_input,
            mean,
            inverse,
            weight,
            affine[1],
            by_weight,
            by_bias,
            *shape.sizes,
            parts if shape.merged else None,
            **shape.applied,
        )
    return by_input, masked, by_weight, by_bias


class _Shape:
    """How the programs share [pixels, channels]."""

    def __init__(self, x: Tensor):
        self.channels = x.shape[1]
        pixels = x.numel() // self.channels
        self.sizes = pixels, self.channels
        across = min(64, triton.next_power_of_2(self.channels))
        down = NUMBERS // across
        blocks = triton.cdiv(self.channels, across)
        steps = max(4, triton.next_power_of_2(triton.cdiv(pixels, down * _STRETCHES)))
        self.stretches = triton.cdiv(pixels, down * steps)
        tile = {"DOWN": down, "ACROSS": across}
        self.sums = {**tile, "STEPS": steps}
        # Every program of the last launch reads two float32 for each stretch and channel, from the cache.
        read = self.stretches**2 * self.channels * 8
        self.merged = read <= _READ * x.nbytes
        self.applied = {**tile, "STEPS": steps if self.merged else 1, "STRETCHES": self.stretches}
        together = triton.next_power_of_2(self.stretches)
        few = max(1, min(across, 4 * NUMBERS // together))
        self.settled = {"STRETCHES": self.stretches, "DOWN": together, "ACROSS": few}
        self.grid_of_sums, self.grid_of_channels = (self.stretches, blocks), (triton.cdiv(self.channels, few),)
        self.grid = (triton.cdiv(pixels, down * self.applied["STEPS"]), blocks)


@triton.jit
def sum_kernel(
    x,
    d,  # the gradient; None: forward
    mean,
    inverse,
    weight,  # and bias: where scale·x + term is not positive, d is 0; None: nowhere
    bias,
    parts,  # [stretches, 2, channels]
    pixels,
    channels,
    out=None,  # where it is not positive, d is 0
    masked=None,  # gets d
    DOWN: tl.constexpr = 1,
    ACROSS: tl.constexpr = 1,
    STEPS: tl.constexpr = 1,
):
    """Sums of a stretch: of x's distance from the first pixel and its square, or of d, and d times x's distance from
    the mean.
    """
    real: tl.constexpr = parts.dtype.element_ty
    channel = tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    there = channel < channels
    middle = tl.load((x if d is None else mean) + channel, there, 0.0).to(real)
    if weight is not None:
        scale = tl.load(weight + channel, there, 0.0) * tl.load(inverse + channel, there, 0.0)
        term = tl.load(bias + channel, there, 0.0) - middle * scale
    first = tl.zeros((DOWN, ACROSS), real)
    second = tl.zeros((DOWN, ACROSS), real)
    for step in range(STEPS):
        pixel = (tl.program_id(0).to(tl.int64) * STEPS + step) * DOWN + tl.arange(0, DOWN)
        inside = (pixel < pixels)[:, None] & there[None, :]
        at = pixel[:, None] * channels + channel[None, :]
        number = tl.load(x + at, inside, 0.0).to(real)
        apart = tl.where(inside, number - middle[None, :], 0.0)
        if d is None:
            first += apart
            second += apart * apart
        else:
            kept = tl.load(d + at, inside, 0.0).to(real)
            if out is not None:
                kept = tl.where(tl.load(out + at, inside, 0.0).to(real) > 0, kept, 0.0)
                tl.store(masked + at, kept.to(masked.dtype.element_ty), inside)
            if weight is not None:
                kept = tl.where(number * scale[None, :] + term[None, :] > 0, kept, 0.0)
            first += kept
            second += kept * apart
    at = parts + tl.program_id(0) * 2 * channels + channel
    tl.store(at, tl.sum(first, 0), there)
    tl.store(at + channels, tl.sum(second, 0), there)


@triton.jit
def settle_kernel(
    parts,
    x,  # None: backward
    first_out,  # forward: mean; backward: gradient of the bias
    second_out,  # forward: 1 / standard deviation; backward: gradient of the weight
    pixels,
    channels,
    running_mean,  # backward: 1 / standard deviation
    running_var,
    momentum: tl.float64,
    eps: tl.float64,
    STRETCHES: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    channel = tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    there = channel < channels
    if x is None:
        first, second = _sums(parts, channel, there, channels, STRETCHES, DOWN, ACROSS)
        second *= tl.load(running_mean + channel, there, 0.0)
    else:
        first, second, squares = _statistics(parts, x, channel, there, pixels, channels, eps, STRETCHES, DOWN, ACROSS)
        if running_mean is not None:
            _move(running_mean, running_var, first, squares, channel, there, pixels, momentum)
    tl.store(first_out + channel, first, there)
    tl.store(second_out + channel, second, there)


@triton.jit
def _sums(parts, channel, there, channels, STRETCHES: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    """Both sums of each channel, over all stretches."""
    first = tl.zeros((DOWN, ACROSS), parts.dtype.element_ty)
    second = tl.zeros((DOWN, ACROSS), parts.dtype.element_ty)
    for chunk in range((STRETCHES + DOWN - 1) // DOWN):
        stretch = chunk * DOWN + tl.arange(0, DOWN)
        inside = (stretch < STRETCHES)[:, None] & there[None, :]
        at = parts + stretch[:, None] * 2 * channels + channel[None, :]
        first += tl.load(at, inside, 0.0)
        second += tl.load(at + channels, inside, 0.0)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def _statistics(
    parts,
    x,
    channel,
    there,
    pixels,
    channels,
    eps,
    STRETCHES: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """Each channel's mean, 1 / standard deviation, and sum of squared distances from the mean."""
    real: tl.constexpr = parts.dtype.element_ty
    first, second = _sums(parts, channel, there, channels, STRETCHES, DOWN, ACROSS)
    apart = first / pixels
    mean = tl.load(x + channel, there, 0.0).to(real) + apart
    squares = tl.maximum(second - apart * apart * pixels, 0.0)
    variance = squares / pixels + tl.full((), eps, real)
    # Triton has no correctly rounded root of float64 by that name.
    inverse = 1 / (tl.sqrt(variance) if real == tl.float64 else tl.sqrt_rn(variance))
    return mean.to(real), inverse.to(real), squares


@triton.jit
def _move(running_mean, running_var, mean, squares, channel, there, pixels, momentum):
    """Moves the running statistics."""
    rate = tl.full((), momentum, running_mean.dtype.element_ty)
    old = tl.load(running_mean + channel, there, 0.0)
    tl.store(running_mean + channel, old + rate * (mean - old), there)
    old = tl.load(running_var + channel, there, 0.0)
    tl.store(running_var + channel, old + rate * (squares / (pixels - 1) - old), there)


@triton.jit
def apply_kernel(
    x,
    residual,
    out,
    mean,
    inverse,
    weight,
    bias,
    pixels,
    channels,
    parts,  # None: mean and inverse are read; otherwise they are made of these sums, and written
    running_mean,
    running_var,
    momentum: tl.float64,
    eps: tl.float64,
    RELU: tl.constexpr,
    STRETCHES: tl.constexpr,
    STEPS: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    real: tl.constexpr = mean.dtype.element_ty
    channel = tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    there = channel < channels
    if parts is None:
        middle, deviation = tl.load(mean + channel, there, 0.0), tl.load(inverse + channel, there, 0.0)
    else:
        middle, deviation, squares = _statistics(
            parts, x, channel, there, pixels, channels, eps, STRETCHES, DOWN, ACROSS
        )
        if tl.program_id(0) == 0:
            tl.store(mean + channel, middle, there)
            tl.store(inverse + channel, deviation, there)
            if running_mean is not None:
                _move(running_mean, running_var, middle, squares, channel, there, pixels, momentum)
    scale = tl.load(weight + channel, there, 0.0) * deviation
    term = tl.load(bias + channel, there, 0.0) - middle * scale
    for step in range(STEPS):
        pixel = (tl.program_id(0).to(tl.int64) * STEPS + step) * DOWN + tl.arange(0, DOWN)
        inside = (pixel < pixels)[:, None] & there[None, :]
        at = pixel[:, None] * channels + channel[None, :]
        number = tl.load(x + at, inside, 0.0).to(real) * scale[None, :] + term[None, :]
        if residual is not None:
            number += tl.load(residual + at, inside, 0.0).to(real)
        if RELU:
            number = tl.where(number < 0, 0.0, number)  # NaN stays
        tl.store(out + at, number.to(out.dtype.element_ty), inside)


@triton.jit
def apply_back_kernel(
    x,
    d,
    out,
    mean,
    inverse,
    weight,
    bias,  # None: d is used as it is
    by_weight,
    by_bias,
    pixels,
    channels,
    parts,  # None: by_weight and by_bias are read; otherwise they are made of these sums, and written
    STRETCHES: tl.constexpr,
    STEPS: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    real: tl.constexpr = mean.dtype.element_ty
    channel = tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    there = channel < channels
    middle, deviation = tl.load(mean + channel, there, 0.0), tl.load(inverse + channel, there, 0.0)
    if parts is None:
        of_bias, of_weight = tl.load(by_bias + channel, there, 0.0), tl.load(by_weight + channel, there, 0.0)
    else:
        of_bias, of_weight = _sums(parts, channel, there, channels, STRETCHES, DOWN, ACROSS)
        of_weight *= deviation
        if tl.program_id(0) == 0:
            tl.store(by_bias + channel, of_bias, there)
            tl.store(by_weight + channel, of_weight, there)
    scale = tl.load(weight + channel, there, 0.0) * deviation
    slope = -scale * deviation * of_weight / pixels
    shift = -scale * of_bias / pixels
    if bias is not None:
        term = tl.load(bias + channel, there, 0.0) - middle * scale
    for step in range(STEPS):
        pixel = (tl.program_id(0).to(tl.int64) * STEPS + step) * DOWN + tl.arange(0, DOWN)
        inside = (pixel < pixels)[:, None] & there[None, :]
        at = pixel[:, None] * channels + channel[None, :]
        number = tl.load(x + at, inside, 0.0).to(real)
        gradient = tl.load(d + at, inside, 0.0).to(real)
        if bias is not None:
            gradient = tl.where(number * scale[None, :] + term[None, :] > 0, gradient, 0.0)
        by_input = scale[None, :] * gradient + slope[None, :] * (number - middle[None, :]) + shift[None, :]
        tl.store(out + at, by_input.to(out.dtype.element_ty), inside)
