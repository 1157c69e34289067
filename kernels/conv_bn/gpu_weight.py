"""conv_bn's gradient of the weight on a GPU. Not run on one yet.

A program adds up a stretch of output pixels for one tile of columns by output channels. The stretches are written down
and then added in their order, without atomic operations.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .gpu_tiles import add_product, add_up, block_of, load_gradient, load_input, places, sizes
from .layer import Layer

_ROWS = 32  # pixels of a product: with 64, Triton 3.9 puts a few bytes on the stack on sm_100
_COLUMNS = 64  # of a tile: what a matrix instruction of sm_90 takes
_STEPS = 32  # products of a stretch; more where there would be more stretches than
_STRETCHES = 128


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
    layer, networks = Layer.of(input, weight, stride), len(input)
    constants = weight_constants(layer)
    stretches = triton.cdiv(layer.pixels_out, _ROWS * constants["STEPS"])
    tiles = triton.cdiv(layer.columns, _COLUMNS) * triton.cdiv(layer.channels_out, constants["OUTS"])
    parts = input.new_empty(networks, stretches, layer.channels_out * layer.columns, dtype=torch.float32)
    with on_device_of(input):
        weight_kernel[(stretches, tiles, networks)](
            *(gradient, out, slope, offset, input, scale, shift, parts, input.stride(0)), **constants
        )
        return add_up(parts, weight.new_empty(weight.shape))


def weight_constants(layer: Layer) -> dict[str, int]:
    """Of `weight_kernel`. The stretches follow from the layer alone, whatever the number of networks."""
    products = triton.cdiv(layer.pixels_out, _ROWS)
    steps = max(min(_STEPS, products), triton.cdiv(products, _STRETCHES))
    tile = {"ROWS": _ROWS, "COLUMNS": _COLUMNS, "OUTS": block_of(layer.channels_out), "STEPS": steps}
    return sizes(layer) | tile


@triton.jit
def weight_kernel(
    gradient,  # [networks, images, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    out,
    slope,  # and offset: [networks, OUT_CHANNELS]; None: nothing reached the statistics
    offset,
    x,  # [networks, images, HEIGHT, WIDTH, CHANNELS]
    scale,  # and shift: [networks, CHANNELS]; None: x is taken as it is
    shift,
    parts,  # [networks, stretches, OUT_CHANNELS, SIDE, SIDE, CHANNELS]
    x_stride,
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
    STEPS: tl.constexpr,
):
    ALL: tl.constexpr = SIDE * SIDE * CHANNELS
    PIXELS: tl.constexpr = BATCH * OUT_HEIGHT * OUT_WIDTH
    WIDE: tl.constexpr = (OUT_CHANNELS + OUTS - 1) // OUTS
    network = tl.program_id(2).to(tl.int64)
    x += network * x_stride
    gradient += network * PIXELS * OUT_CHANNELS
    out += network * PIXELS * OUT_CHANNELS
    column = tl.program_id(1) // WIDE * COLUMNS + tl.arange(0, COLUMNS)
    o = tl.program_id(1) % WIDE * OUTS + tl.arange(0, OUTS)
    total = tl.zeros((COLUMNS, OUTS), tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        at, inside = places(
            row, column, PIXELS, OUT_HEIGHT, OUT_WIDTH, HEIGHT, WIDTH, CHANNELS, SIDE, STRIDE, BACK=False
        )
        under = load_input(x, at, inside, scale, shift, network, column % CHANNELS, CHANNELS)
        at = row[:, None] * OUT_CHANNELS + o[None, :]
        inside = (row < PIXELS)[:, None] & (o < OUT_CHANNELS)[None, :]
        whole = load_gradient(gradient, out, slope, offset, at, inside, network, o % OUT_CHANNELS, OUT_CHANNELS)
        total = add_product(total, tl.trans(under), whole)
    parts += (network * tl.num_programs(0) + tl.program_id(0)) * OUT_CHANNELS * ALL
    inside = (column < ALL)[:, None] & (o < OUT_CHANNELS)[None, :]
    tl.store(parts + o[None, :] * ALL + column[:, None], total, inside)
