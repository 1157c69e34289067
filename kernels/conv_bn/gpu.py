"""conv_bn on a GPU, in Triton: implicit matrix products over all networks. The forward pass.

A program makes a tile of output pixels by output channels of one network. It adds up products over the columns: a
column is one input channel at one place of the kernel, and a row of columns is what lies under an output pixel. Tiles
depend on the layer alone, not on the number of networks, and the statistics of tiles are added in their order. So a
network gets the same bits alone and among others. Not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .gpu_input import conv_bn_by_input
from .gpu_tiles import add_product, block_of, load_input, places, rows_of, sizes
from .gpu_weight import conv_bn_by_weight
from .layer import Layer

__all__ = ["conv_bn", "conv_bn_by_input", "conv_bn_by_weight"]

_TILES, _CHANNELS = 512, 16  # whose statistics are added at once


def conv_bn(
    input: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, and mean and variance of its channels. Nothing is checked."""
    layer, networks = Layer.of(input, weight, stride), len(input)
    real = torch.float32
    out = input.new_empty(networks, layer.batch, layer.out_height, layer.out_width, layer.channels_out)
    mean, var = (input.new_empty(networks, layer.channels_out, dtype=real) for _ in range(2))
    constants = forward_constants(layer)
    rows, channels = constants["ROWS"], constants["OUTS"]
    tiles = triton.cdiv(layer.pixels_out, rows)
    parts = input.new_empty(networks, 2, tiles, layer.channels_out, dtype=real)
    with on_device_of(input):
        forward_kernel[(tiles, triton.cdiv(layer.channels_out, channels), networks)](
            input, weight, scale, shift, out, parts, input.stride(0), weight.stride(0), **constants
        )
        statistics_kernel[(triton.cdiv(layer.channels_out, _CHANNELS), networks)](
            *(parts, mean, var),
            PIXELS=layer.pixels_out,
            TILES=tiles,
            CHANNELS=layer.channels_out,
            ROWS=rows,
            DOWN=min(_TILES, triton.next_power_of_2(tiles)),
            ACROSS=_CHANNELS,
        )
    return out, mean, var


def forward_constants(layer: Layer) -> dict[str, int]:
    """Of `forward_kernel`."""
    columns = block_of(layer.columns)
    return sizes(layer) | {"ROWS": rows_of(columns), "COLUMNS": columns, "OUTS": block_of(layer.channels_out)}


@triton.jit
def forward_kernel(
    x,  # [networks, images, HEIGHT, WIDTH, CHANNELS]
    weight,  # [networks, OUT_CHANNELS, SIDE, SIDE, CHANNELS]
    scale,  # and shift: [networks, CHANNELS]; None: x is taken as it is
    shift,
    out,  # [networks, images, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    parts,  # [networks, 2, tiles, OUT_CHANNELS]: sum, and squares around the tile's mean
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
    OUTS: tl.constexpr,
):
    network = tl.program_id(2).to(tl.int64)
    x += network * x_stride
    weight += network * weight_stride
    ALL: tl.constexpr = SIDE * SIDE * CHANNELS
    PIXELS: tl.constexpr = BATCH * OUT_HEIGHT * OUT_WIDTH
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    there = o < OUT_CHANNELS
    total = tl.zeros((ROWS, OUTS), tl.float32)
    for block in range((ALL + COLUMNS - 1) // COLUMNS):
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        at, inside = places(
            row, column, PIXELS, OUT_HEIGHT, OUT_WIDTH, HEIGHT, WIDTH, CHANNELS, SIDE, STRIDE, BACK=False
        )
        under = load_input(x, at, inside, scale, shift, network, column % CHANNELS, CHANNELS)
        kernel = tl.load(weight + o[None, :] * ALL + column[:, None], (column < ALL)[:, None] & there[None, :], 0.0)
        total = add_product(total, under, kernel)
    made = total.to(out.dtype.element_ty)
    inside = (row < PIXELS)[:, None] & there[None, :]
    out += network * PIXELS * OUT_CHANNELS
    tl.store(out + row[:, None] * OUT_CHANNELS + o[None, :], made, inside)
    # Of the output as it is stored. Rows beyond the last pixel are 0 and count for nothing.
    number = made.to(tl.float32)
    first = tl.sum(number, 0)
    count = tl.minimum(PIXELS - tl.program_id(0) * ROWS, ROWS)
    apart = tl.where(inside, number - (first / count)[None, :], 0.0)
    TILES: tl.constexpr = (PIXELS + ROWS - 1) // ROWS
    at = parts + (network * 2 * TILES + tl.program_id(0)) * OUT_CHANNELS + o
    tl.store(at, first, there)
    tl.store(at + TILES * OUT_CHANNELS, tl.sum(apart * apart, 0), there)


@triton.jit
def statistics_kernel(
    parts,
    mean,  # [networks, CHANNELS]
    var,
    PIXELS: tl.constexpr,
    TILES: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    network = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    there = channel < CHANNELS
    parts += network * 2 * TILES * CHANNELS
    first = tl.zeros((ACROSS,), tl.float32)
    for step in range((TILES + DOWN - 1) // DOWN):
        tile = step * DOWN + tl.arange(0, DOWN)
        at = parts + tile[:, None] * CHANNELS + channel[None, :]
        first += tl.sum(tl.load(at, (tile < TILES)[:, None] & there[None, :], 0.0), 0)
    middle = first / PIXELS
    second = tl.zeros((ACROSS,), tl.float32)
    for step in range((TILES + DOWN - 1) // DOWN):
        tile = step * DOWN + tl.arange(0, DOWN)
        at = parts + tile[:, None] * CHANNELS + channel[None, :]
        inside = (tile < TILES)[:, None] & there[None, :]
        count = tl.maximum(tl.minimum(PIXELS - tile * ROWS, ROWS), 1).to(tl.float32)[:, None]
        apart = tl.where(inside, tl.load(at, inside, 0.0) / count - middle[None, :], 0.0)
        squares = tl.load(at + TILES * CHANNELS, inside, 0.0)
        second += tl.sum(squares + apart * apart * count, 0)
    tl.store(mean + network * CHANNELS + channel, middle, there)
    tl.store(var + network * CHANNELS + channel, second / PIXELS, there)
