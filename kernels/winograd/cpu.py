"""winograd on the CPU: tiles go through three steps in small groups, so that all between them stays in the caches.

First a group's patches are transformed to 36 numbers for each channel. Each of the 36 gives a matrix [tiles, in], which
is multiplied with a matrix [in, out] of the transformed kernels. The 36 products are transformed to the output's tiles.
Memory is channels last, so a vector is sixteen channels of a pixel.

Each thread takes a stretch of the batch. Each number is summed by one thread in an order that does not depend on their
count: the gradient of the weights is summed in parts whose number follows from the shapes.
"""

from functools import lru_cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .. import _vectors
from .._compile import callback, inlined
from .._jobs import FIRST, Job, take_stretch, types_of
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
_SPARE = LINE // 4  # numbers, a cache line at least
_PREFETCHED = 1 << 17  # bytes of a group: more would drive its products out of the second-level cache
_SUMS_BYTES, _MOST_PARTS, _FEWEST_PARTS = 5 << 19, 16, 4

# Fields of a job: addresses, then numbers. TOGETHER: the tiles of a group.
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
    """The gradient of the weight, [out_channels, in_channels, 3, 3]; float32 for bfloat16 images."""
    ins, outs = input.shape[1], gradient.shape[1]
    dtype = _number(input)
    parts = parts_of(input.shape, outs, dtype.itemsize)
    sums = torch.zeros(parts, _PLACES, _apart(ins * outs), dtype=dtype)
    arrays, together = (input, gradient, sums), _together(ins, outs)
    _job(_gradient_body, parts, arrays, input.shape, outs, parts=parts, together=together).run()
    out = torch.empty(TAPS, TAPS, ins, outs, dtype=dtype)
    _job(_finish_body, ins, (sums, out), (1, ins, 1, 1), outs, parts=parts).run()
    return out.permute(3, 2, 0, 1).contiguous()


def parts_of(shape: torch.Size, outs: int, itemsize: int) -> int:
    """In how many parts the gradient of the weights is summed: more where a part is small."""
    bytes_of_one = _PLACES * shape[1] * outs * itemsize
    groups = -(-_tiles(shape) // _together(shape[1], outs))
    return min(groups, max(_FEWEST_PARTS, min(_MOST_PARTS, _SUMS_BYTES // bytes_of_one)))


def _group(ins: int, outs: int) -> int:
    """The tiles of a group: so many that they fit the second-level cache beside the kernels."""
    return GROUP if max(ins, outs) > 16 else 2 * GROUP


def _together(ins: int, outs: int) -> int:
    """The tiles of a group that are added to the sums at once: more where the sums do not fit the caches."""
    return _group(ins, outs) if max(ins, outs) <= 128 else 16 * GROUP


def _convolved(input: Tensor, kernels: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """kernels: [3, 3, in, out], in any strides."""
    kernels = kernels.to(_number(input)).contiguous()
    bias = None if bias is None else bias.to(kernels.dtype)
    ins, outs = kernels.shape[2:]
    transformed = kernels.new_empty(_PLACES, _apart(ins * outs))
    _job(_kernel_body, ins, (kernels, transformed), (1, ins, 1, 1), outs).run()
    shape = len(input), outs, *input.shape[2:]
    out = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)
    arrays = input, out, transformed, bias, residual
    together = _group(ins, outs)
    _job(_convolve_body, _tiles(input.shape), arrays, input.shape, outs, relu=relu, together=together).run()
    return out


def _job(body, units: int, arrays: tuple[Tensor | None, ...], shape, outs: int, relu=False, parts=0, together=0) -> Job:
    images, ins, height, width = shape
    work = _PLACES * ins * outs * _tiles(shape)
    arrays += (None,) * (RELU - FIRST - len(arrays))
    numbers = int(relu), images, height, width, ins, outs, parts, together
    first = arrays[0]
    assert first is not None
    return Job(body(first.dtype), units, arrays, numbers, work >= PARALLEL_FROM)


def _apart(count: int) -> int:
    """The distance of 36 matrices of so many numbers, such that their lines do not compete for one place in a cache."""
    return count + _SPARE


def _number(images: Tensor) -> torch.dtype:
    """The dtype of the arithmetic."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


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
    row, step = job[OUTS] * number.itemsize, job[INS] * job[OUTS] * number.itemsize
    apart = (job[INS] * job[OUTS] + _SPARE) * number.itemsize
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for place in range(start * row, stop * row, LANES * number.itemsize):
            transform_kernel(number, job[SOURCE] + place, step, job[TARGET] + place, apart)


@inlined
def _finish(job_pointer, like, number, version):
    """From sums [parts, 36, in, out] to [3, 3, in, out]. A unit is an input channel."""
    job = carray(job_pointer, FIELDS)
    row, step = job[OUTS] * number.itemsize, job[INS] * job[OUTS] * number.itemsize
    apart = (job[INS] * job[OUTS] + _SPARE) * number.itemsize
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for place in range(start * row, stop * row, LANES * number.itemsize):
            part = _PLACES * apart
            finish_kernel(number, job[SOURCE] + place, apart, job[PARTS], part, job[TARGET] + place, step)


@inlined
def _line(array):
    """The address of the first whole cache line of an array: a vector in two lines takes twice the time."""
    return (array.ctypes.data + LINE - 1) // LINE * LINE


@inlined
def _still_needed(a, b, c, d):
    """Keeps arrays until here: Numba frees an array after its last use, and knows nothing of addresses."""
    a[0] = b[0] = c[0] = d[0] = 0


@inlined
def _tiles_of(job):
    return job[IMAGES] * ((job[HEIGHT] + TILE - 1) // TILE) * ((job[WIDTH] + TILE - 1) // TILE)


@inlined
def _find(job, tile, channels, margin, base, outside, places):
    """Writes the addresses of the pixels of a tile and of `margin` pixels around it.

    base: the address of the images, whose pixels have so many bytes of `channels`. outside: for pixels outside.
    """
    height, width = job[HEIGHT], job[WIDTH]
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    image, place = tile // (across * down), tile % (across * down)
    top, left = place // across * TILE - margin, place % across * TILE - margin
    side = TILE + 2 * margin
    start = base + ((image * height + top) * width + left) * channels
    whole = top >= 0 and left >= 0 and top + side <= height and left + side <= width
    for y in range(side):
        row = start + y * width * channels
        if whole:
            for x in range(side):
                places[y * side + x] = row + x * channels
        else:
            inside = 0 <= top + y < height
            for x in range(side):
                places[y * side + x] = row + x * channels if inside and 0 <= left + x < width else outside


@inlined
def _patches(job, first, count, together, like, number, places, nothing, target):
    """Transforms a group's patches to 36 matrices [together, in]. Rows past the last tile, if read, are zero."""
    ins, row = job[INS], job[INS] * number.itemsize
    for t in range(-(-count // LINES) * LINES):
        if t < count:
            _find(job, first + t, ins * like.itemsize, 1, job[SOURCE], nothing, places)
        else:
            places[:] = nothing
        for channel in range(0, ins, LANES):
            place = target + t * row + channel * number.itemsize
            transform_patch(like, places.ctypes.data, channel * like.itemsize, place, together * row + LINE)


@inlined
def _slopes(job, first, count, together, like, number, places, nothing, target):
    """Transforms the gradient of a group's output tiles to 36 matrices [together, out]."""
    outs, row = job[OUTS], job[OUTS] * number.itemsize
    for t in range(count):
        _find(job, first + t, outs * like.itemsize, 0, job[TARGET], nothing, places)
        for channel in range(0, outs, LANES):
            place = target + t * row + channel * number.itemsize
            transform_gradient(like, places.ctypes.data, channel * like.itemsize, place, together * row + LINE)


@inlined
def _prefetch(job, base, tile, together, channels, k):
    """Begins to load the k-th of 36 parts of the images of a group. channels: their bytes in a pixel."""
    length = together * TILE * TILE * channels
    if length > _PREFETCHED:
        return
    pixel, part = tile * job[IMAGES] * job[HEIGHT] * job[WIDTH] // _tiles_of(job), length // _PLACES
    start = base + pixel * channels + k * part
    for place in range(start, start + part, LINE):
        prefetch(place)


@inlined
def _convolve(job_pointer, like, number, version):
    """Each thread takes a stretch of the tiles, group by group."""
    job = carray(job_pointer, FIELDS)
    ins, outs, together = job[INS], job[OUTS], job[TOGETHER]
    patches_memory = np.empty(_PLACES * (together * ins + _SPARE) + _SPARE, number.dtype)
    products_memory = np.empty(_PLACES * (together * outs + _SPARE) + _SPARE, number.dtype)
    nothing, dump = np.zeros(ins + _SPARE, number.dtype), np.zeros(outs + _SPARE, number.dtype)
    patches, products, at_nothing, at_dump = _line(patches_memory), _line(products_memory), _line(nothing), _line(dump)
    places = np.empty(_PLACES, np.int64)
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for first in range(start, stop, together):
            count = min(together, stop - first)
            _patches(job, first, count, together, like, number, places, at_nothing, patches)
            for k in range(_PLACES):
                _prefetch(job, job[SOURCE], first + together, together, ins * like.itemsize, k)
                _prefetch(job, job[TARGET], first, together, outs * like.itemsize, k)
                _multiply(job, k, count, number, patches, products)
            _outputs(job, first, count, like, number, at_dump, products)
    _still_needed(patches_memory, products_memory, nothing, dump)


@inlined
def _multiply(job, k, count, number, patches, products):
    """Multiplies the k-th of a group's 36 matrices, [count, in], with that of the kernels, [in, out]."""
    row, out_row, channel, together = job[INS] * number.itemsize, job[OUTS] * number.itemsize, 0, job[TOGETHER]
    patches, products = patches + k * (together * row + LINE), products + k * (together * out_row + LINE)
    kernels = job[KERNELS] + k * (job[INS] * job[OUTS] + _SPARE) * number.itemsize
    while channel + VECTORS * LANES <= job[OUTS]:
        at = channel * number.itemsize
        for t in range(0, count, LINES):
            here, target = patches + t * row, products + t * out_row + at
            multiply(number, here, row, kernels + at, out_row, target, out_row, job[INS])
        channel += VECTORS * LANES
    if channel < job[OUTS]:
        at = channel * number.itemsize
        for t in range(0, count, LINES):
            here, target = patches + t * row, products + t * out_row + at
            multiply_one(number, here, row, kernels + at, out_row, target, out_row, job[INS])


@inlined
def _outputs(job, first, count, like, number, dump, products):
    """Writes a group's tiles. dump: the address that pixels outside the image are written to."""
    outs, row = job[OUTS], job[OUTS] * number.itemsize
    places, residuals = np.empty(_PLACES, np.int64), np.empty(_PLACES, np.int64)
    at_residuals = residuals.ctypes.data if job[RESIDUAL] != 0 else 0
    for t in range(count):
        _find(job, first + t, outs * like.itemsize, 0, job[TARGET], dump, places)
        if at_residuals != 0:
            _find(job, first + t, outs * like.itemsize, 0, job[RESIDUAL], dump, residuals)
        for channel in range(0, outs, LANES):
            at, offset = channel * number.itemsize, channel * like.itemsize
            bias = job[BIAS] + at if job[BIAS] != 0 else 0
            source = products + t * row + at
            finish_tile(
                like, source, job[TOGETHER] * row + LINE, places.ctypes.data, at_residuals, offset, bias, job[RELU]
            )
    residuals[0] = places[0]  # as in `_still_needed`


@inlined
def _gradient(job_pointer, like, number, version):
    """Each thread takes some parts of the sums [parts, 36, in, out], which are zero before."""
    job = carray(job_pointer, FIELDS)
    ins, outs, parts, together, tiles = job[INS], job[OUTS], job[PARTS], job[TOGETHER], _tiles_of(job)
    groups = (tiles + together - 1) // together
    patches_memory = np.empty(_PLACES * (together * ins + _SPARE) + _SPARE, number.dtype)
    slopes_memory = np.empty(_PLACES * (together * outs + _SPARE) + _SPARE, number.dtype)
    nothing = np.zeros(max(ins, outs) + _SPARE, number.dtype)
    patches, slopes, at_nothing = _line(patches_memory), _line(slopes_memory), _line(nothing)
    places = np.empty(_PLACES, np.int64)
    while True:
        start, stop = take_stretch(job_pointer)
        if start < 0:
            break
        for part in range(start, stop):
            for group in range(groups * part // parts, groups * (part + 1) // parts):
                first = group * together
                count = min(together, tiles - first)
                _patches(job, first, count, together, like, number, places, at_nothing, patches)
                _slopes(job, first, count, together, like, number, places, at_nothing, slopes)
                for k in range(_PLACES):
                    _prefetch(job, job[SOURCE], first + together, together, ins * like.itemsize, k)
                    _prefetch(job, job[TARGET], first + together, together, outs * like.itemsize, k)
                    _accumulate(job, k, count, number, patches, slopes, part)
    _still_needed(patches_memory, slopes_memory, nothing, nothing)


@inlined
def _accumulate(job, k, count, number, patches, slopes, part):
    """Adds a group's share of the k-th of 36 sums, a product of [in, count] and [count, out], to those of a part."""
    size, ins, outs, together = number.itemsize, job[INS], job[OUTS], job[TOGETHER]
    row, out_row, channel = ins * size, outs * size, 0
    patches, slopes = patches + k * (together * row + LINE), slopes + k * (together * out_row + LINE)
    sums = job[KERNELS] + (part * _PLACES + k) * (ins * outs + _SPARE) * size
    while channel + VECTORS_OF_SUMS * LANES <= outs:
        for i in range(0, ins, SUMS):
            target = sums + i * out_row + channel * size
            accumulate(number, patches + i * size, row, slopes + channel * size, out_row, target, out_row, count)
        channel += VECTORS_OF_SUMS * LANES
    if channel < outs:
        for i in range(0, ins, SUMS_OF_ONE):
            target = sums + i * out_row + channel * size
            accumulate_one(number, patches + i * size, row, slopes + channel * size, out_row, target, out_row, count)
