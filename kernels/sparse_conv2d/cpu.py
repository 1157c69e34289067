"""sparse_conv2d on the CPU: for each position and output channel a tile of 64 images, summed over the live weights.

A tile stays in eight vector registers while its channel's list is read, so a weight costs eight loads that are fused
with their multiply-adds, and nothing is stored in between. All channels of a position share their inputs in the caches.
Threads take rows of blocks of images, or output channels for the gradient of the weights. Each number is summed by one
thread in an order that does not depend on their count.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .. import _vectors
from .._compile import callback, inlined
from .._jobs import DOUBLE, FIRST, LONG, THREADS, UNITS, Job, types_of
from .._memory import pointer, take
from .._vectors import BLOCK, LANES
from . import tile as tile_file
from .lists import Pattern, Side, backward_side, forward_side
from .tile import dot_tile, gather_tile

PARALLEL_FROM = 1 << 20  # multiply-adds, 40 µs; torch's threads start within 2 µs when they have just worked

# Fields of a job: addresses, then numbers.
SOURCE, TARGET, START, MASK, A, B, SUMS, STARTS, OFFSETS, VALUES, ROWS, COLUMNS, PLACES = range(FIRST, FIRST + 13)
TAPS, HEIGHT, WIDTH, INS, OUT_HEIGHT, OUT_WIDTH, OUTS, KERNEL_WIDTH, BLOCKS, FIELDS = range(FIRST + 13, FIRST + 23)
_FILES = [str(module.__file__) for module in (_vectors, tile_file)] + [__file__]


def forward(input: Tensor, weight: Tensor, *pattern_and_padding) -> Tensor:
    """The operator on CPU tensors, unchecked."""
    pattern, padding = _pattern(weight, *pattern_and_padding)
    side = forward_side(pattern, input.shape[1:4], padding, input.itemsize)
    out = input.new_empty(len(input), *side.shape[3:6], BLOCK)
    gather(side, input.contiguous(), _values(side, weight), out).run()
    return out


def backward_input(gradient: Tensor, weight: Tensor, height: int, width: int, *pattern_and_padding) -> Tensor:
    """The gradient of the input, of that height and width."""
    pattern, padding = _pattern(weight, *pattern_and_padding)
    side = backward_side(pattern, (height, width, weight.shape[1]), padding, gradient.itemsize)
    out = gradient.new_empty(len(gradient), *side.shape[3:6], BLOCK)
    gather(side, gradient.contiguous(), _values(side, weight), out).run()
    return out


def backward_weight(input: Tensor, gradient: Tensor, weight: Tensor, *pattern_and_padding) -> Tensor:
    """The gradient of the weight; 0 where it is masked."""
    pattern, padding = _pattern(weight, *pattern_and_padding)
    side = forward_side(pattern, input.shape[1:4], padding, input.itemsize)
    out = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dots(side, input.contiguous(), gradient.contiguous(), out).run()
    return out


def _pattern(weight: Tensor, starts, weights, back_starts, back_weights, stride, padding) -> tuple[Pattern, int]:
    return Pattern(starts, weights, back_starts, back_weights, tuple(weight.shape), stride), padding


def _values(side: Side, weight: Tensor) -> np.ndarray:
    return weight.detach().contiguous().view(-1).numpy()[side.places]


def collect(weights: Sequence[tuple[Tensor, np.ndarray, np.ndarray]]) -> Job:
    """The job that copies weights into values: for each weight (contiguous), its places and the values there."""
    table = np.array([[w.data_ptr(), p.ctypes.data, v.ctypes.data, len(p)] for w, p, v in weights], np.int64)
    return Job(_collect_body(weights[0][0].dtype), len(table), (table, *(t for w in weights for t in w)))


def gather(
    side: Side,
    source: Tensor,
    values: np.ndarray,
    out: Tensor,
    *,
    first: Tensor | None = None,
    mask: Tensor | None = None,
    sums: np.ndarray | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> Job:
    """The job out = first + Σ values·source; 0 where `mask` is at most 0. All but `source` have the shape of `out`.

    sums: float64 [blocks · height, 3, channels] of `out`: for each row and channel Σ out, Σ out·a (Σ out² if `a` is
        None), and Σ out·b (0 if `b` is None).
    """
    arrays = (source, out, first, mask, a, b, sums, side.starts, side.offsets, values, side.rows, side.columns, None)
    numbers = side.starts.shape[1], *side.shape, len(source)
    rows = len(source) * side.shape[3] if out.numel() else 0
    work = len(values) * rows * side.shape[4] * BLOCK
    return Job(_gather_body(source.dtype), rows, arrays, numbers, work >= PARALLEL_FROM)


def dots(side: Side, source: Tensor, gradient: Tensor, out: Tensor) -> Job:
    """The job that writes the gradients of the live weights into `out`, which is contiguous."""
    arrays = (source, gradient, None, None, None, None, out, side.starts, side.offsets, None, side.rows, side.columns)
    numbers = side.starts.shape[1], *side.shape, len(source)
    work = len(side.places) * len(source) * side.shape[3] * side.shape[4] * BLOCK
    return Job(_dots_body(source.dtype), side.shape[5], (*arrays, side.places), numbers, work >= PARALLEL_FROM)


@lru_cache
def _collect_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _collect(job, like, number, version))


@inlined
def _collect(job_pointer, like, number, version):
    job = carray(job_pointer, FIRST + 1)
    table = carray(pointer(job[FIRST], LONG), (job[UNITS], 4))
    for i in range(job[UNITS]):
        count = table[i, 3]
        weight, values = carray(pointer(table[i, 0], like), 1), carray(pointer(table[i, 2], like), count)
        places = carray(pointer(table[i, 1], LONG), count)
        for k in range(count):
            values[k] = weight[places[k]]


@lru_cache
def _gather_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _gather(job, like, number, version))


@inlined
def _gather(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    outs, out_height, kernel_width = job[OUTS], job[OUT_HEIGHT], job[KERNEL_WIDTH]
    tile = BLOCK * like.itemsize
    lanes = np.zeros((outs, 3, LANES), number.dtype)
    at_lanes = lanes.ctypes.data if job[SUMS] != 0 else 0
    while True:
        row = take(job_pointer, 1)
        if row >= job[UNITS]:
            break
        block, y = row // out_height, row % out_height
        top, bottom, window_y = carray(pointer(job[ROWS], LONG), (out_height, 3))[y]
        for x in range(job[OUT_WIDTH]):
            left, right, window_x = carray(pointer(job[COLUMNS], LONG), (job[OUT_WIDTH], 3))[x]
            window = job[SOURCE] + ((block * job[HEIGHT] + window_y) * job[WIDTH] + window_x) * job[INS] * tile
            # If the window has its full width, the stretches of its rows are one.
            stretches, length = max(0, bottom - top), max(0, right - left)
            if length == kernel_width:
                stretches, length = 1, stretches * kernel_width
            place = (row * job[OUT_WIDTH] + x) * outs * tile
            for channel in range(outs):
                gather_tile(
                    like,
                    job[TARGET] + place,
                    window,
                    job[OFFSETS],
                    job[VALUES],
                    job[STARTS] + 8 * (channel * job[TAPS] + top * kernel_width + left),
                    stretches,
                    kernel_width,
                    length,
                    job[START] + place if job[START] != 0 else 0,
                    job[MASK] + place if job[MASK] != 0 else 0,
                    at_lanes + channel * 3 * LANES * number.itemsize if at_lanes != 0 else 0,
                    job[A] + place if job[A] != 0 else 0,
                    job[B] + place if job[B] != 0 else 0,
                )
                place += tile
        if at_lanes != 0:
            sums = carray(pointer(job[SUMS], DOUBLE), (job[UNITS], 3, outs))
            for channel in range(outs):
                for which in range(3):
                    total = 0.0
                    for lane in range(LANES):
                        total += lanes[channel, which, lane]
                        lanes[channel, which, lane] = 0
                    sums[row, which, channel] = total


@lru_cache
def _dots_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _dots(job, like, number, version))


@inlined
def _dots(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    outs, out_height, kernel_width = job[OUTS], job[OUT_HEIGHT], job[KERNEL_WIDTH]
    tile = BLOCK * like.itemsize
    starts = carray(pointer(job[STARTS], LONG), (outs, job[TAPS]))
    while True:
        # As few parts as there are threads, because each reads all images.
        part = take(job_pointer, 1)
        if part >= job[THREADS]:
            break
        begin, end = outs * part // job[THREADS], outs * (part + 1) // job[THREADS]
        if begin == end:
            continue
        low, high = starts[begin, 0], starts[end - 1, job[TAPS] - 1]
        lanes = np.zeros((high - low, LANES), number.dtype)
        at_lanes = lanes.ctypes.data - low * LANES * number.itemsize
        for row in range(job[BLOCKS] * out_height):
            block, y = row // out_height, row % out_height
            top, bottom, window_y = carray(pointer(job[ROWS], LONG), (out_height, 3))[y]
            for x in range(job[OUT_WIDTH]):
                left, right, window_x = carray(pointer(job[COLUMNS], LONG), (job[OUT_WIDTH], 3))[x]
                window = job[SOURCE] + ((block * job[HEIGHT] + window_y) * job[WIDTH] + window_x) * job[INS] * tile
                stretches, length = max(0, bottom - top), max(0, right - left)
                if length == kernel_width:
                    stretches, length = 1, stretches * kernel_width
                place = job[TARGET] + (row * job[OUT_WIDTH] + x) * outs * tile
                for channel in range(begin, end):
                    dot_tile(
                        like,
                        place + channel * tile,
                        window,
                        job[OFFSETS],
                        at_lanes,
                        job[STARTS] + 8 * (channel * job[TAPS] + top * kernel_width + left),
                        stretches,
                        kernel_width,
                        length,
                    )
        for k in range(low, high):
            total = number.dtype.type(0)
            for lane in range(LANES):
                total += lanes[k - low, lane]
            carray(pointer(job[SUMS], number), high)[carray(pointer(job[PLACES], LONG), high)[k]] = total
