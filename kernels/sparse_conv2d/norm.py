"""Batch norm, ReLU and addition on tiles: one pass forward and one backward, because convolutions bring the sums.

The variance is E[y²] - E[y]², from sums of a row of 64 images in float32 that are added up in float64. So its relative
error is about 1e-7·(1 + mean² / variance).
"""

from functools import lru_cache

import numpy as np
import torch
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from .. import _vectors
from .._compile import callback, inlined
from .._jobs import DOUBLE, FIRST, UNITS, Job, types_of
from .._memory import pointer, take
from .._vectors import BLOCK, Tiles

PARALLEL_FROM = 1 << 16  # numbers, 20 µs; torch's threads start within 2 µs when they have just worked

# Fields of the jobs.
OUT, U, V, P, Q, T, RELU, LAST, LANES, WIDTH, CHANNELS = range(FIRST, FIRST + 11)
SUMS, GAMMA, BETA, MEAN, INVERSE, SCALE, TERM, RUNNING_MEAN, RUNNING_VAR, OPTIONS, ROWS, COUNT = range(
    FIRST, FIRST + 12
)
GAMMA_GRADIENT, BETA_GRADIENT, SLOPE = RUNNING_MEAN, RUNNING_VAR, OPTIONS
WHICH = ADD = COUNT + 1
FIELDS = WHICH + 1
_FILES = [str(_vectors.__file__), __file__]


def combine(
    out: Tensor,
    u: Tensor,
    v: Tensor | None,
    p: np.ndarray,
    q: np.ndarray | None,
    t: np.ndarray,
    *,
    relu: bool = False,
    count: int | None = None,
) -> Job:
    """The job out = p·u + q·v + t for each channel, then max(·, 0) if `relu`; `v` None: without it. `out` may be `u`.

    p, q, t: [channels], of the type that is computed. count: images; what lies after them in the last block becomes 0.
    None: the blocks are full.
    """
    rows = len(out) * out.shape[1]
    lanes = 0 if count is None else count % BLOCK
    last = (len(out) - 1) * out.shape[1] if lanes else rows
    numbers = int(relu), last, lanes, out.shape[2], out.shape[3]
    return Job(_combine_body(out.dtype), rows, (out, u, v, p, q, t), numbers, out.numel() >= PARALLEL_FROM)


def statistics(
    sums: np.ndarray,
    gamma: Tensor,
    beta: Tensor,
    mean: np.ndarray,
    inverse: np.ndarray,
    scale: np.ndarray,
    term: np.ndarray,
    running_mean: Tensor,
    running_var: Tensor,
    options: np.ndarray,
    *,
    count: int,
    add: bool,
) -> Job:
    """The job that turns a convolution's sums into the scale and term of batch norm, scale·y + term, and updates its
    statistics.

    sums: [rows, 3, channels], see `cpu.gather`. mean, inverse: float64 [channels], written for `gradients`
    (inverse is 1 / standard deviation). options: float64 [2], eps and momentum. count: numbers of a channel.
    add: to `term`, which holds another norm's, instead of writing it.
    """
    arrays = sums, gamma, beta, mean, inverse, scale, term, running_mean, running_var, options
    return Job(_statistics_body(gamma.dtype), sums.shape[2], arrays, (len(sums), count, int(add)))


def gradients(
    sums: np.ndarray,
    gamma: Tensor,
    mean: np.ndarray,
    inverse: np.ndarray,
    coefficients: tuple[np.ndarray, np.ndarray, np.ndarray],
    gamma_gradient: Tensor,
    beta_gradient: Tensor,
    *,
    count: int,
    which: int = 1,
) -> Job:
    """The job that makes of the sums of a norm's gradient d those of its weights, and of its input: p·d + q·y + t.

    coefficients: p, q and t, which are written. which: the row of `sums` with Σ d·y.
    """
    p, q, t = coefficients
    arrays = sums, gamma, None, mean, inverse, p, t, gamma_gradient, beta_gradient, q
    return Job(_gradients_body(gamma.dtype), sums.shape[2], arrays, (len(sums), count, which))


@intrinsic
def _combine_tile(typing, like, number, target, u, v, p, q, t, channel, relu):
    def codegen(context, builder, signature, arguments):
        target, u, v, p, q, t, channel, relu = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)

        def factor(address):
            return tiles.splat(builder.load(tiles.at(address, tiles.number, channel)))

        def add():
            scale = factor(q)
            return [tiles.fma(x, scale, y) for x, y in zip(tiles.load(v), total, strict=True)]

        scale, term = factor(p), factor(t)
        total = [tiles.fma(x, scale, term) for x in tiles.load(u)]
        total = tiles.unless_zero(v, total, add)
        total = tiles.unless_zero(
            relu,
            total,
            lambda: [builder.select(builder.fcmp_ordered("<", x, tiles.zero), tiles.zero, x) for x in total],
        )
        tiles.store(total, target)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 8), codegen


@lru_cache
def _combine_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _combine(job, like, number, version))


@inlined
def _combine(job_pointer, like, number, version):
    job = carray(job_pointer, CHANNELS + 1)
    channels, tile = job[CHANNELS], BLOCK * like.itemsize
    while True:
        row = take(job_pointer, 1)
        if row >= job[UNITS]:
            break
        for place in range(row * job[WIDTH] * channels, (row + 1) * job[WIDTH] * channels):
            at, channel = place * tile, place % channels
            v = job[V] + at if job[V] != 0 else 0
            _combine_tile(like, number, job[OUT] + at, job[U] + at, v, job[P], job[Q], job[T], channel, job[RELU])
            if row >= job[LAST]:
                carray(pointer(job[OUT] + at, like), BLOCK)[job[LANES] :] = like.dtype.type(0)


@lru_cache
def _statistics_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _statistics(job, like, number, version))


@inlined
def _statistics(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    channels, count = job[UNITS], job[COUNT]
    sums = carray(pointer(job[SUMS], DOUBLE), (job[ROWS], 3, channels))
    gamma, beta = carray(pointer(job[GAMMA], like), channels), carray(pointer(job[BETA], like), channels)
    mean, inverse = carray(pointer(job[MEAN], DOUBLE), channels), carray(pointer(job[INVERSE], DOUBLE), channels)
    scale, term = carray(pointer(job[SCALE], like), channels), carray(pointer(job[TERM], like), channels)
    running_mean = carray(pointer(job[RUNNING_MEAN], like), channels)
    running_var = carray(pointer(job[RUNNING_VAR], like), channels)
    eps, momentum = carray(pointer(job[OPTIONS], DOUBLE), 2)
    for c in range(channels):
        first = second = 0.0
        for row in range(job[ROWS]):
            first += sums[row, 0, c]
            second += sums[row, 1, c]
        mean[c] = first / count
        variance = second / count - mean[c] * mean[c]
        variance = 0.0 if variance < 0 else variance
        inverse[c] = 1 / np.sqrt(variance + eps)
        scale[c] = gamma[c] * inverse[c]
        term[c] = beta[c] - mean[c] * gamma[c] * inverse[c] + (term[c] if job[ADD] != 0 else 0)
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (variance * count / max(1, count - 1) - running_var[c])


@lru_cache
def _gradients_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _gradients(job, like, number, version))


@inlined
def _gradients(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    channels, count = job[UNITS], job[COUNT]
    sums = carray(pointer(job[SUMS], DOUBLE), (job[ROWS], 3, channels))
    gamma = carray(pointer(job[GAMMA], like), channels)
    mean, inverse = carray(pointer(job[MEAN], DOUBLE), channels), carray(pointer(job[INVERSE], DOUBLE), channels)
    p, t = carray(pointer(job[SCALE], like), channels), carray(pointer(job[TERM], like), channels)
    q = carray(pointer(job[SLOPE], like), channels)
    gamma_gradient = carray(pointer(job[GAMMA_GRADIENT], like), channels)
    beta_gradient = carray(pointer(job[BETA_GRADIENT], like), channels)
    for c in range(channels):
        first = second = 0.0
        for row in range(job[ROWS]):
            first += sums[row, 0, c]
            second += sums[row, job[WHICH], c]
        by_gamma = (second - mean[c] * first) * inverse[c]
        gamma_gradient[c], beta_gradient[c] = by_gamma, first
        slope = by_gamma * inverse[c] / count
        p[c] = gamma[c] * inverse[c]
        q[c] = -gamma[c] * inverse[c] * slope
        t[c] = gamma[c] * inverse[c] * (mean[c] * slope - first / count)
