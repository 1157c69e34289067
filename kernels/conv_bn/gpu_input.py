"""conv_bn's gradient of the input on a GPU. Not run on one yet.

The forward pass with the two ends exchanged: a program makes a tile of input pixels by input channels, and adds up
products over the outputs that they reach. At stride 2 three products of four are by zeros: that keeps the kernel
simple, and concerns two 3×3 layers of ResNet-20. After the last product the tile passes ReLU and the scale, and its
sums are the gradients of shift and scale.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .gpu_tiles import add_product, add_up, block_of, load_gradient, places, rows_of, sizes
from .layer import Layer


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
    layer, networks = Layer.of(input, weight, stride), len(input)
    by_input = input.new_empty(input.shape)
    make = input.new_zeros if scale is None else input.new_empty
    sums = make((networks, 2, layer.channels_in), dtype=torch.float32)
    constants = input_constants(layer)
    tiles, channels = triton.cdiv(layer.pixels_in, constants["ROWS"]), triton.cdiv(layer.channels_in, constants["INS"])
    parts = sums.new_empty(networks, tiles, 2 * layer.channels_in) if scale is not None else None
    with on_device_of(input):
        input_kernel[(tiles, channels, networks)](
            *(gradient, out, slope, offset, input, weight, scale, shift, by_input, parts),
            *(input.stride(0), weight.stride(0)),
            **constants,
        )
        if parts is not None:
            add_up(parts, sums)
    return by_input, sums


def input_constants(layer: Layer) -> dict[str, int]:
    """Of `input_kernel`."""
    columns = block_of(layer.side**2 * layer.channels_out)
    return sizes(layer) | {"ROWS": rows_of(columns), "COLUMNS": columns, "INS": block_of(layer.channels_in)}


@triton.jit
def input_kernel(
    gradient,  # [networks, images, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    out,
    slope,  # and offset: [networks, OUT_CHANNELS]; None: nothing reached the statistics
    offset,
    x,  # [networks, images, HEIGHT, WIDTH, CHANNELS]
    weight,  # [networks, OUT_CHANNELS, SIDE, SIDE, CHANNELS]
    scale,  # and shift: [networks, CHANNELS]; None: x was taken as it is
    shift,
    by_input,
    parts,  # [networks, tiles, 2, CHANNELS]: gradients of shift and scale
    x_stride,
    weight_stride,
    BATCH: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INS: tl.constexpr,
):
    ALL: tl.constexpr = SIDE * SIDE * OUT_CHANNELS
    PIXELS: tl.constexpr = BATCH * HEIGHT * WIDTH
    OUT_NUMBERS: tl.constexpr = BATCH * OUT_HEIGHT * OUT_WIDTH * OUT_CHANNELS
    network = tl.program_id(2).to(tl.int64)
    x += network * x_stride
    weight += network * weight_stride
    gradient += network * OUT_NUMBERS
    out += network * OUT_NUMBERS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * INS + tl.arange(0, INS)
    there = channel < CHANNELS
    total = tl.zeros((ROWS, INS), tl.float32)
    for block in range((ALL + COLUMNS - 1) // COLUMNS):
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        o = column % OUT_CHANNELS
        at, inside = places(
            row, column, PIXELS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS, SIDE, STRIDE, BACK=True
        )
        whole = load_gradient(gradient, out, slope, offset, at, inside, network, o, OUT_CHANNELS)
        at = (o * SIDE * SIDE + column // OUT_CHANNELS)[:, None] * CHANNELS + channel[None, :]
        kernel = tl.load(weight + at, (column < ALL)[:, None] & there[None, :], 0.0)
        total = add_product(total, whole, kernel)
    at = row[:, None] * CHANNELS + channel[None, :]
    inside = (row < PIXELS)[:, None] & there[None, :]
    if scale is not None:
        slope_in = tl.load(scale + network * CHANNELS + channel, there, 0.0)
        term = tl.load(shift + network * CHANNELS + channel, there, 0.0)
        number = tl.load(x + at, inside, 0.0).to(tl.float32)
        total = tl.where(inside & (number * slope_in[None, :] + term[None, :] > 0), total, 0.0)
        parts += (network * tl.num_programs(0) + tl.program_id(0)) * 2 * CHANNELS
        tl.store(parts + channel, tl.sum(total, 0), there)
        tl.store(parts + CHANNELS + channel, tl.sum(total * number, 0), there)
        total = total * slope_in[None, :]
    tl.store(by_input + network * PIXELS * CHANNELS + at, total.to(by_input.dtype.element_ty), inside)
