"""The layout of `sparse_conv2d`: [blocks, height, width, channels, 64], with 64 images innermost.

The numbers of one position and channel in 64 images are a tile. A last block that is not full has zeros.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from ._compile import compiled
from ._library import refuse_forward_mode
from ._threads import split
from ._vectors import BLOCK

__all__ = ["BLOCK", "enter", "leave"]

_SIDE = 16  # squares of 16 positions and 16 images are transposed in registers
_PARALLEL_FROM = 64  # such units; Python's threads take 60 µs to start


def enter(images: Tensor, out: Tensor | None = None) -> Tensor:
    """The tiles of images [N, channels, height, width], in any memory order. Differentiable.

    out: is filled and returned, if given; not differentiable then.
    """
    if out is None:
        if images.dim() != 4:
            raise ValueError(f"images are {tuple(images.shape)}: expected [N, channels, height, width]")
        refuse_forward_mode("enter", images)
        return torch.ops.sparselt.enter_tiles(images)
    count = len(images)
    rows = images.detach().permute(0, 2, 3, 1).to(out.dtype).contiguous().view(count, out[:1].numel() // BLOCK)
    if count % BLOCK:
        out[-1, ..., count % BLOCK :].zero_()
    _share(_enter, rows, out)
    return out


def leave(tiles: Tensor, count: int, channels_last: bool = False) -> Tensor:
    """The first `count` images of tiles, [count, channels, height, width], contiguous or channels last.

    Differentiable. Raises ValueError for another number of images than the tiles can hold.
    """
    if tiles.dim() != 5 or tiles.shape[4] != BLOCK:
        raise ValueError(f"tiles are {tuple(tiles.shape)}: expected [blocks, height, width, channels, {BLOCK}]")
    if not 0 <= count <= len(tiles) * BLOCK:
        raise ValueError(f"count is {count} images: expected 0 to {len(tiles) * BLOCK}, which the tiles hold")
    refuse_forward_mode("leave", tiles)
    return torch.ops.sparselt.leave_tiles(tiles, count, channels_last)


def _new_tiles(images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    return images.new_empty(-(-count // BLOCK), height, width, channels, BLOCK)


def _new_images(tiles: Tensor, count: int, channels_last: bool) -> Tensor:
    _, height, width, channels, _ = tiles.shape
    images = tiles.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def _enter_on_cpu(images: Tensor) -> Tensor:
    return enter(images, _new_tiles(images))


def _leave_on_cpu(tiles: Tensor, count: int, channels_last: bool) -> Tensor:
    images = _new_images(tiles, count, True)
    rows = images.permute(0, 2, 3, 1).view(count, tiles[:1].numel() // BLOCK)
    _share(_leave, rows, tiles.contiguous())
    return images if channels_last else images.contiguous()


_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define("enter_tiles(Tensor images) -> Tensor")
_library.define("leave_tiles(Tensor tiles, SymInt count, bool channels_last) -> Tensor")
_library.impl("enter_tiles", _enter_on_cpu, "CPU")
_library.impl("leave_tiles", _leave_on_cpu, "CPU")
torch.library.register_fake("sparselt::enter_tiles", _new_tiles, lib=_library)
torch.library.register_fake("sparselt::leave_tiles", _new_images, lib=_library)


def _save_count(ctx, inputs, output) -> None:
    ctx.count = len(inputs[0])


torch.library.register_autograd(
    "sparselt::enter_tiles",
    lambda ctx, gradient: leave(gradient, ctx.count),
    setup_context=_save_count,
    lib=_library,
)
torch.library.register_autograd(
    "sparselt::leave_tiles", lambda ctx, gradient: (enter(gradient), None, None), lib=_library
)


def _share(function, rows: Tensor, tiles: Tensor) -> None:
    positions = rows.shape[1] if len(rows) else 0
    units = len(tiles) * -(-positions // _SIDE)
    arrays = _numbers(rows), _numbers(tiles.view(len(tiles), rows.shape[1], BLOCK))
    split(function, arrays, units, _PARALLEL_FROM)


def _numbers(tensor: Tensor) -> np.ndarray:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@compiled
def _enter(rows, tiles, start, stop):
    count, positions = rows.shape
    size = rows.itemsize
    chunks = (positions + _SIDE - 1) // _SIDE
    for unit in range(start, stop):
        block, low = unit // chunks, unit % chunks * _SIDE
        high, first = min(low + _SIDE, positions), block * BLOCK
        images = min(BLOCK, count - first)
        whole = images // _SIDE * _SIDE if high - low == _SIDE else 0
        for n in range(0, whole, _SIDE):
            source = rows.ctypes.data + ((first + n) * positions + low) * size
            target = tiles.ctypes.data + ((block * positions + low) * BLOCK + n) * size
            _transpose(rows, source, positions * size, target, BLOCK * size)
        for n in range(whole, images):
            for p in range(low, high):
                tiles[block, p, n] = rows[first + n, p]


@compiled
def _leave(rows, tiles, start, stop):
    count, positions = rows.shape
    size = rows.itemsize
    chunks = (positions + _SIDE - 1) // _SIDE
    for unit in range(start, stop):
        block, low = unit // chunks, unit % chunks * _SIDE
        high, first = min(low + _SIDE, positions), block * BLOCK
        images = min(BLOCK, count - first)
        whole = images // _SIDE * _SIDE if high - low == _SIDE else 0
        for n in range(0, whole, _SIDE):
            target = rows.ctypes.data + ((first + n) * positions + low) * size
            source = tiles.ctypes.data + ((block * positions + low) * BLOCK + n) * size
            _transpose(rows, source, BLOCK * size, target, positions * size)
        for n in range(whole, images):
            for p in range(low, high):
                rows[first + n, p] = tiles[block, p, n]


@intrinsic
def _transpose(typing, like, source, source_step, target, target_step):
    """Transposes a square of 16 × 16 numbers. like: an array of their dtype; steps in bytes from row to row."""

    def codegen(context, builder, signature, arguments):
        _, source, source_step, target, target_step = arguments
        word, long, index = ir.IntType(signature.args[0].dtype.bitwidth), ir.IntType(64), ir.IntType(32)
        row = ir.VectorType(word, _SIDE)

        def place(address, step, number):
            at = builder.add(address, builder.mul(step, long(number)))
            return builder.inttoptr(at, row.as_pointer())

        rows = [builder.load(place(source, source_step, k), align=1) for k in range(_SIDE)]
        for bit in (1, 2, 4, 8):
            for k in range(_SIDE):
                if k & bit == 0:
                    lower, upper = rows[k], rows[k | bit]
                    first = [_SIDE + (j ^ bit) if j & bit else j for j in range(_SIDE)]
                    second = [_SIDE + j if j & bit else j ^ bit for j in range(_SIDE)]
                    for place_in, chosen in ((k, first), (k | bit, second)):
                        mask = ir.Constant(ir.VectorType(index, _SIDE), chosen)
                        rows[place_in] = builder.shuffle_vector(lower, upper, mask)
        for k, vector in enumerate(rows):
            builder.store(vector, place(target, target_step, k), align=1)
        return context.get_dummy_value()

    return types.none(like, *[types.int64] * 4), codegen
