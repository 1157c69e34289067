"""What the kernels of conv_bn share: sizes of tiles, and where the numbers under a pixel lie."""

import triton
import triton.language as tl
from torch import Tensor

from .layer import Layer

_TOGETHER = 512  # partial sums that are added at once
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def block_of(columns: int) -> int:
    """Columns of a tile: as many as pad them by an eighth at most, at least the 16 of a matrix instruction."""
    fitting = (block for block in (64, 32) if triton.cdiv(columns, block) * block <= columns + columns // 8)
    return next(fitting, 16)


def rows_of(columns: int) -> int:
    """Pixels of a tile with so many columns: a thread holds 32 numbers of it at most, or registers run short."""
    return 128 if columns < 32 else 64


def sizes(layer: Layer) -> dict[str, int]:
    """The layer as the kernels' constants: their divisions become multiplications, their loops have a fixed length."""
    return {
        "BATCH": layer.batch,
        "HEIGHT": layer.height,
        "WIDTH": layer.width,
        "CHANNELS": layer.channels_in,
        "OUT_HEIGHT": layer.out_height,
        "OUT_WIDTH": layer.out_width,
        "OUT_CHANNELS": layer.channels_out,
        "SIDE": layer.side,
        "STRIDE": layer.stride,
    }


@triton.jit
def places(
    row,
    column,
    PIXELS: tl.constexpr,
    ROW_HEIGHT: tl.constexpr,
    ROW_WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    BACK: tl.constexpr,
):
    """Where in [images, HEIGHT, WIDTH, CHANNELS] the number of each row and column lies, and whether there is one.

    row: pixels of [images, ROW_HEIGHT, ROW_WIDTH]. BACK: rows are inputs, and the numbers are the outputs that they
    reach; otherwise rows are outputs, and the numbers are the inputs under them.
    """
    image = row // (ROW_HEIGHT * ROW_WIDTH)
    y = (row // ROW_WIDTH % ROW_HEIGHT)[:, None]
    x = (row % ROW_WIDTH)[:, None]
    tap = column // CHANNELS
    down = (tap // SIDE - SIDE // 2)[None, :]
    across = (tap % SIDE - SIDE // 2)[None, :]
    inside = (row < PIXELS)[:, None] & (column < SIDE * SIDE * CHANNELS)[None, :]
    if BACK:
        y, x = y - down, x - across
        if STRIDE == 2:
            inside = inside & (y % 2 == 0) & (x % 2 == 0)
            y, x = y // 2, x // 2
    else:
        y, x = y * STRIDE + down, x * STRIDE + across
    inside = inside & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    return ((image[:, None] * HEIGHT + y) * WIDTH + x) * CHANNELS + (column % CHANNELS)[None, :], inside


@triton.jit
def load_input(x, at, inside, scale, shift, network, channel, CHANNELS: tl.constexpr):
    """The input of the product: normalized and clipped, and 0 outside, as torch pads after batch norm and ReLU."""
    number = tl.load(x + at, inside, 0.0)
    if scale is not None:
        slope = tl.load(scale + network * CHANNELS + channel)
        term = tl.load(shift + network * CHANNELS + channel)
        normal = number.to(tl.float32) * slope[None, :] + term[None, :]
        normal = tl.where(normal < 0, 0.0, normal)  # NaN stays
        number = tl.where(inside, normal, 0.0).to(x.dtype.element_ty)
    return number


@triton.jit
def load_gradient(gradient, out, slope, offset, at, inside, network, channel, CHANNELS: tl.constexpr):
    """The gradient of the output, with what reaches it through the statistics: slope·out + offset by channel."""
    number = tl.load(gradient + at, inside, 0.0)
    if slope is not None:
        by_square = tl.load(slope + network * CHANNELS + channel)
        by_sum = tl.load(offset + network * CHANNELS + channel)
        made = tl.load(out + at, inside, 0.0).to(tl.float32)
        whole = number.to(tl.float32) + made * by_square[None, :] + by_sum[None, :]
        number = tl.where(inside, whole, 0.0).to(gradient.dtype.element_ty)
    return number


@triton.jit
def add_product(total, a, b):
    """total + a·b in float32, on matrix instructions in bfloat16, and without TF32 in float32."""
    if _INTERPRETED:  # it would multiply the bits of bfloat16 as whole numbers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


def add_up(parts: Tensor, out: Tensor) -> Tensor:
    """Fills `out` with the sums of parts (networks, count, numbers) over their count, in a fixed order; returns it."""
    networks, count, numbers = parts.shape
    down = min(_TOGETHER, triton.next_power_of_2(count))
    across = max(16, min(4096 // down, 256))
    add_kernel[(triton.cdiv(numbers, across), networks)](
        parts, out, COUNT=count, NUMBERS=numbers, DOWN=down, ACROSS=across
    )
    return out


@triton.jit
def add_kernel(parts, out, COUNT: tl.constexpr, NUMBERS: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    network = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    parts += network * COUNT * NUMBERS
    total = tl.zeros((ACROSS,), tl.float32)
    for step in range((COUNT + DOWN - 1) // DOWN):
        part = (step * DOWN + tl.arange(0, DOWN)).to(tl.int64)
        inside = (part < COUNT)[:, None] & (number < NUMBERS)[None, :]
        total += tl.sum(tl.load(parts + part[:, None] * NUMBERS + number[None, :], inside, 0.0), 0)
    tl.store(out + network * NUMBERS + number, total.to(out.dtype.element_ty), number < NUMBERS)
