"""winograd on the CPU: groups of tiles go through three steps, and what lies between stays in the caches.

Each of 36 numbers of a patch, over a group's tiles and channels, is a matrix; so is each of 36 numbers of the kernels.
Their products make the group's output. Memory is channels last, so a vector is sixteen channels of a pixel.

Each thread takes a stretch of the batch. Each number is summed by one thread in an order that does not depend on their
count: the gradient of the weights is summed in parts whose number follows from the shapes.
"""

from functools import lru_cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .. import _vectors
from .._compile import callback
from .._jobs import FIRST, Job, inlined, take_stretch, types_of
from .._memory import LINE, prefetch
from .._vectors import LANES
from . import transforms
from .transforms import (
    GROUP,
    LINES,
    PATCH,
    SUMS,
    SUMS_OF_ONE,
    TAPS,
    TILE,
    VECTORS,
    VECTORS_OF_SUMS,
    accumulate,
    accumulate_one,
    finish_kernel,
    finish_tile,
    multiply,
    multiply_one,
    transform_gradient,
    transform_kernel,
    transform_patch,
)

PARALLEL_FROM = 1 << 20  # multiply-adds of the products
_PLACES = PATCH * PATCH
_SPARE = LINE // 4  # numbers in a cache line
_PREFETCHED = 1 << 17  # bytes of a group: more would drive its products out of the second-level cache
_SUMS_BYTES, _MOST_PARTS, _FEWEST_PARTS = 5 << 19, 16, 4

# Fields of a job: addresses, then numbers.
SOURCE, TARGET, KERNELS, BIAS, RESIDUAL = range(FIRST, FIRST + 5)
RELU, IMAGES, HEIGHT, WIDTH, INS, OUTS, PARTS, TOGETHER, FIELDS = range(FIRST + 5, FIRST + 14)
_FILES = [str(module.__file__) for module in (_vectors, transforms)] + [__file__]


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """The operator on CPU tensors, unchecked."""
    return _convolved(input, weight.permute(2, 3, 1, 0), bias, residual, relu)


def backward_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input."""
    return _convolved(gradient, weight.flip(2, 3).permute(2, 3, 0, 1), None, None, False)


def backward_weight(input: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the weight, [out_channels, in_channels, 3, 3]."""
    ins, outs = input.shape[1], gradient.shape[1]
    parts = parts_of(input.shape, outs, input.itemsize)
    sums = input.new_zeros(parts, _PLACES, ins, outs)
    arrays, together = (input, gradient, sums), _together(ins, outs)
    _job(_gradient_body, parts, arrays, input.shape, outs, parts=parts, together=together).run()
    out = input.new_empty(TAPS, TAPS, ins, outs)
    _job(_finish_body, ins, (sums, out), (1, ins, 1, 1), outs, parts=parts).run()
    return out.permute(3, 2, 0, 1).contiguous()


def parts_of(shape: torch.Size, outs: int, itemsize: int) -> int:
    """In how many parts the gradient of the weights is summed: more where a part is small."""
    bytes_of_one = _PLACES * shape[1] * outs * itemsize
    groups = -(-_tiles(shape) // _together(shape[1], outs))
    return min(groups, max(_FEWEST_PARTS, min(_MOST_PARTS, _SUMS_BYTES // bytes_of_one)))


def _together(ins: int, outs: int) -> int:
    """The tiles of a group that are added to the sums at once: more where the sums do not fit the caches."""
    return GROUP if max(ins, outs) <= 128 else 8 * GROUP


def _convolved(input: Tensor, kernels: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """kernels: [3, 3, in, out], in any strides."""
    kernels = kernels.contiguous()
    ins, outs = kernels.shape[2:]
    transformed = input.new_empty(_PLACES, ins, outs)
    _job(_kernel_body, ins, (kernels, transformed), (1, ins, 1, 1), outs).run()
    shape = len(input), outs, *input.shape[2:]
    out = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)
    arrays = input, out, transformed, bias, residual
    _job(_convolve_body, _tiles(input.shape), arrays, input.shape, outs, relu=relu).run()
    return out


def _job(body, units: int, arrays: tuple[Tensor | None, ...], shape, outs: int, relu=False, parts=0, together=0) -> Job:
    images, ins, height, width = shape
    work = _PLACES * ins * outs * _tiles(shape)
    arrays += (None,) * (RELU - FIRST - len(arrays))
    numbers = int(relu), images, height, width, ins, outs, parts, together
    return Job(body(arrays[0].dtype), units, arrays, numbers, work >= PARALLEL_FROM)


def _tiles(shape) -> int:
    return shape[0] * -(-shape[2] // TILE) * -(-shape[3] // TILE)


@lru_cache
def _kernel_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _transform_kernels(job, like, number, version))


@lru_cache
def _convolve_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _convolve(job, like, number, version))


@lru_cache
def _gradient_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _gradient(job, like, number, version))


@lru_cache
def _finish_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _finish(job, like, number, version))


@inlined
def _transform_kernels(job_pointer, like, number, version):
    """From [3, 3, in, out] to [36, in, out]. A unit is an input channel."""
    job = carray(job_pointer, FIELDS)
    row, step = job[OUTS] * like.itemsize, job[INS] * job[OUTS] * like.itemsize
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for place in range(start * row, stop * row, LANES * like.itemsize):
            transform_kernel(like, job[SOURCE] + place, step, job[TARGET] + place, step)


@inlined
def _finish(job_pointer, like, number, version):
    """From sums [parts, 36, in, out] to [3, 3, in, out]. A unit is an input channel."""
    job = carray(job_pointer, FIELDS)
    row, step = job[OUTS] * like.itemsize, job[INS] * job[OUTS] * like.itemsize
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for place in range(start * row, stop * row, LANES * like.itemsize):
            parts_step = _PLACES * step
            finish_kernel(like, job[SOURCE] + place, step, job[PARTS], parts_step, job[TARGET] + place, step)


@inlined
def _line(array):
    """The address of the first whole cache line of an array: a vector in two lines takes twice the time."""
    return (array.ctypes.data + LINE - 1) // LINE * LINE


@inlined
def _still_needed(a, b, c, d):
    """Keeps arrays until here: Numba frees an array after its last use, and knows nothing of addresses."""
    a[0] = b[0] = c[0] = d[0] = 0


@inlined
def _find(job, tile, channels, margin, base, outside, size, places):
    """Writes the addresses of the pixels of a tile and of `margin` pixels around it.

    base: the address of the images, with so many `channels` of `size` bytes. outside: the address for pixels outside.
    """
    height, width = job[HEIGHT], job[WIDTH]
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    image, place = tile // (across * down), tile % (across * down)
    top, left = place // across * TILE - margin, place % across * TILE - margin
    side, pixel = TILE + 2 * margin, channels * size
    start = base + ((image * height + top) * width + left) * pixel
    whole = top >= 0 and left >= 0 and top + side <= height and left + side <= width
    for y in range(side):
        row = start + y * width * pixel
        if whole:
            for x in range(side):
                places[y * side + x] = row + x * pixel
        else:
            inside = 0 <= top + y < height
            for x in range(side):
                places[y * side + x] = row + x * pixel if inside and 0 <= left + x < width else outside


@inlined
def _patches(job, first, count, together, like, places, nothing, target):
    """Transforms the patches of a group into [36, together, in]; what is read past the last tile is zero."""
    size, ins = like.itemsize, job[INS]
    for t in range(-(-count // LINES) * LINES):
        if t < count:
            _find(job, first + t, ins, 1, job[SOURCE], nothing, size, places)
        else:
            places[:] = nothing
        for channel in range(0, ins, LANES):
            place = target + (t * ins + channel) * size
            transform_patch(like, places.ctypes.data, channel * size, place, together * ins * size)


@inlined
def _prefetch(start, k, length):
    """Begins to load the k-th of 36 parts of a stretch of memory."""
    if length > _PREFETCHED:
        return
    part = length // _PLACES
    for place in range(start + k * part, start + (k + 1) * part, LINE):
        prefetch(place)


@inlined
def _convolve(job_pointer, like, number, version):
    """Each thread takes a stretch of the tiles, group by group."""
    job = carray(job_pointer, FIELDS)
    size, ins, outs = like.itemsize, job[INS], job[OUTS]
    tiles = job[IMAGES] * ((job[HEIGHT] + TILE - 1) // TILE) * ((job[WIDTH] + TILE - 1) // TILE)
    patches_memory = np.empty(_PLACES * GROUP * ins + _SPARE, like.dtype)
    products_memory = np.empty(_PLACES * GROUP * outs + _SPARE, like.dtype)
    nothing, dump = np.zeros(ins + _SPARE, like.dtype), np.zeros(outs + _SPARE, like.dtype)
    patches, products, at_nothing, at_dump = _line(patches_memory), _line(products_memory), _line(nothing), _line(dump)
    places, residuals = np.empty(_PLACES, np.int64), np.empty(_PLACES, np.int64)
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for first in range(start, stop, GROUP):
            count = min(GROUP, stop - first)
            _patches(job, first, count, GROUP, like, places, at_nothing, patches)
            coming = job[SOURCE] + min(first + GROUP, tiles) * TILE * TILE * ins * size
            written = job[TARGET] + first * TILE * TILE * outs * size
            for k in range(_PLACES):
                _prefetch(coming, k, GROUP * TILE * TILE * ins * size)
                _prefetch(written, k, GROUP * TILE * TILE * outs * size)
                a = patches + k * GROUP * ins * size
                b, c = job[KERNELS] + k * ins * outs * size, products + k * GROUP * outs * size
                channel = 0
                while channel + VECTORS * LANES <= outs:
                    for t in range(0, count, LINES):
                        here = c + (t * outs + channel) * size
                        a_row = a + t * ins * size
                        multiply(like, a_row, ins * size, b + channel * size, outs * size, here, outs * size, ins)
                    channel += VECTORS * LANES
                if channel < outs:
                    for t in range(0, count, LINES):
                        here = c + (t * outs + channel) * size
                        a_row = a + t * ins * size
                        multiply_one(like, a_row, ins * size, b + channel * size, outs * size, here, outs * size, ins)
            at_residuals = residuals.ctypes.data if job[RESIDUAL] != 0 else 0
            for t in range(count):
                _find(job, first + t, outs, 0, job[TARGET], at_dump, size, places)
                if at_residuals != 0:
                    _find(job, first + t, outs, 0, job[RESIDUAL], at_dump, size, residuals)
                for channel in range(0, outs, LANES):
                    source = products + (t * outs + channel) * size
                    bias = job[BIAS] + channel * size if job[BIAS] != 0 else 0
                    at, step = channel * size, GROUP * outs * size
                    finish_tile(like, source, step, places.ctypes.data, at_residuals, at, bias, job[RELU])
    _still_needed(patches_memory, products_memory, nothing, dump)


@inlined
def _gradient(job_pointer, like, number, version):
    """Each thread takes some parts of the sums [parts, 36, in, out], which are zero before."""
    job = carray(job_pointer, FIELDS)
    size, ins, outs, parts, together = like.itemsize, job[INS], job[OUTS], job[PARTS], job[TOGETHER]
    tiles = job[IMAGES] * ((job[HEIGHT] + TILE - 1) // TILE) * ((job[WIDTH] + TILE - 1) // TILE)
    groups = (tiles + together - 1) // together
    patches_memory = np.empty(_PLACES * together * ins + _SPARE, like.dtype)
    slopes_memory = np.empty(_PLACES * together * outs + _SPARE, like.dtype)
    nothing = np.zeros(max(ins, outs) + _SPARE, like.dtype)
    patches, slopes, at_nothing = _line(patches_memory), _line(slopes_memory), _line(nothing)
    places = np.empty(_PLACES, np.int64)
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for group in range(groups * start // parts, groups * stop // parts):
            part = start
            while group >= groups * (part + 1) // parts:
                part += 1
            first, count = group * together, min(together, tiles - group * together)
            _patches(job, first, count, together, like, places, at_nothing, patches)
            for t in range(count):
                _find(job, first + t, outs, 0, job[TARGET], at_nothing, size, places)
                for channel in range(0, outs, LANES):
                    place = slopes + (t * outs + channel) * size
                    transform_gradient(like, places.ctypes.data, channel * size, place, together * outs * size)
            coming = job[SOURCE] + min(first + together, tiles) * TILE * TILE * ins * size
            coming_slopes = job[TARGET] + min(first + together, tiles) * TILE * TILE * outs * size
            for k in range(_PLACES):
                _prefetch(coming, k, together * TILE * TILE * ins * size)
                _prefetch(coming_slopes, k, together * TILE * TILE * outs * size)
                a = patches + k * together * ins * size
                b = slopes + k * together * outs * size
                c = job[KERNELS] + (part * _PLACES + k) * ins * outs * size
                channel = 0
                while channel + VECTORS_OF_SUMS * LANES <= outs:
                    for i in range(0, ins, SUMS):
                        here, a_column = c + (i * outs + channel) * size, a + i * size
                        b_here = b + channel * size
                        accumulate(like, a_column, ins * size, b_here, outs * size, here, outs * size, count)
                    channel += VECTORS_OF_SUMS * LANES
                if channel < outs:
                    for i in range(0, ins, SUMS_OF_ONE):
                        here, a_column = c + (i * outs + channel) * size, a + i * size
                        b_here = b + channel * size
                        accumulate_one(like, a_column, ins * size, b_here, outs * size, here, outs * size, count)
    _still_needed(patches_memory, slopes_memory, nothing, nothing)
