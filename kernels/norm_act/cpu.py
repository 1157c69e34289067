"""norm_act on the CPU: numbers in the order of memory, 64 at a time in vector registers, see `_vectors.Tiles`.

Memory is [pixels, channels], read as tiles of 64 numbers. From `period` tiles on, tiles hold the same channels again,
so each tile of a period has its own sums and factors. Threads share units of about 32 Ki numbers.
"""

from functools import lru_cache
from math import gcd

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from .. import _vectors
from .._compile import callback
from .._jobs import DOUBLE, FIRST, NEXT, THREADS, UNITS, inlined, types_of
from .._memory import pointer, read, take, write
from .._threads import share
from .._vectors import BLOCK, LANES, LONG, VECTORS, Tiles

PARALLEL_FROM = 1 << 17  # numbers, 20 µs
_UNIT = 1 << 9  # tiles of a unit: 128 KiB in float32, so that a unit stays in the second-level cache

# The words of a call's memory: addresses, then numbers.
X, Y, RESIDUAL, D, MASKED, PARTS, SUMS, FACTORS, MEAN, INVERSE, WEIGHT, BIAS = range(FIRST, FIRST + 12)
RUNNING_MEAN, RUNNING_VAR, OPTIONS = range(FIRST + 12, FIRST + 15)
CHANNELS, TILES, PERIOD, UNIT, NUMBERS, RELU, WHOLE = range(FIRST + 15, FIRST + 22)
FIELDS = FIRST + 22
BY_WEIGHT, BY_BIAS = RUNNING_MEAN, RUNNING_VAR  # in the backward pass
# The rows of FACTORS, a number for each lane of a period.
SCALE, TERM, MIDDLE, SLOPE, SHIFT = range(5)
_FILES = [str(_vectors.__file__), __file__]


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
    """The operator on CPU tensors, unchecked: output, mean, 1 / standard deviation."""
    out, mean, inverse = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)
    options = torch.tensor([momentum, eps], dtype=torch.float64)
    arrays = mean, inverse, weight, bias, running_mean, running_var, options
    call = _Call((input, out, residual, None, None), arrays, relu)
    if call.alone:
        call.run(_forward_body)
    else:
        call.run(_expand_first_body)
        call.run(_sum_body, shared=True)
        call.run(_settle_body)
        call.run(_apply_body, shared=True)
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
    """The operator on CPU tensors, unchecked: gradients of input, residual (empty without `out`), weight and bias."""
    by_input, by_weight, by_bias = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(bias)
    masked = input.new_empty(0) if out is None else torch.empty_like(input)
    arrays = mean, inverse, weight, bias, by_weight, by_bias, None
    call = _Call((input, by_input, out, gradient, None if out is None else masked), arrays, relu)
    if call.alone:
        call.run(_backward_body)
    else:
        call.run(_expand_body)
        call.run(_sum_back_body, shared=True)
        call.run(_settle_back_body)
        call.run(_apply_back_body, shared=True)
    return by_input, masked, by_weight, by_bias


class _Call:
    """The memory of a call, and its parts.

    tensors: input, output, residual (backward: output of the forward pass), gradient, masked gradient; None: without.
    further: the other addresses, in the order of the words. alone: whether one thread does all.
    """

    def __init__(self, tensors: tuple[Tensor | None, ...], further: tuple[Tensor | None, ...], relu: bool):
        x = tensors[0]
        assert x is not None
        self._dtype, numbers, channels = x.dtype, x.numel(), x.shape[1]
        tiles, period = numbers // BLOCK, channels // gcd(channels, BLOCK)
        unit = max(16, _UNIT // period) * period
        self._units = max(1, -(-tiles // unit))
        number = torch.float64 if x.dtype == torch.float64 else torch.float32
        # For parts, sums and factors. Kept here: the words hold addresses only.
        scratch = (
            torch.empty(self._units, 2, channels, dtype=torch.float64),
            torch.empty(self._units, 2, BLOCK, dtype=number),
            torch.empty(5, period * BLOCK, dtype=number),
        )
        self._kept = scratch, further
        addresses = [0 if t is None else t.data_ptr() for t in (*tensors, *scratch, *further)]
        shape = channels, tiles, period, unit, numbers, int(relu), self._units
        self._words = np.array([0, self._units, 1, *addresses, *shape], np.int64)
        self._address = self._words.ctypes.data
        self.alone = torch.get_num_threads() == 1 or self._units == 1 or numbers < PARALLEL_FROM

    def run(self, body, shared: bool = False) -> None:
        """Runs a part on one thread, or shares its units among threads."""
        self._words[NEXT] = 0
        self._words[THREADS] = torch.get_num_threads() if shared else 1
        share(body(self._dtype), self._address, shared)


@lru_cache
def _forward_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _forward(job, like, number, version))


@inlined
def _forward(job_pointer, like, number, version):
    _expand_first(job_pointer, like, number, version)
    _sum(job_pointer, like, number, version)
    _settle(job_pointer, like, number, version)
    job_pointer[NEXT] = 0
    _apply(job_pointer, like, number, version)


@lru_cache
def _backward_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _backward(job, like, number, version))


@inlined
def _backward(job_pointer, like, number, version):
    _expand(job_pointer, like, number, version)
    _sum_back(job_pointer, like, number, version)
    _settle_back(job_pointer, like, number, version)
    job_pointer[NEXT] = 0
    _apply_back(job_pointer, like, number, version)


# Numba inlines `read` and `write`, and then drops what their caller writes to arrays that are made from an address and
# not read again. So they are called in functions of their own.
@inlined
def _get(array, i):
    return read(array, i)


@inlined
def _put(array, i, number):
    write(array, i, number)


# --- forward ----------------------------------------------------------------------------------------------------


@lru_cache
def _expand_first_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _expand_first(job, like, number, version))


@inlined
def _expand_first(job_pointer, like, number, version):
    """Writes the number that sums are taken around, that of the first pixel, for each lane of a period."""
    job = carray(job_pointer, FIELDS)
    channels, lanes = job[CHANNELS], job[PERIOD] * BLOCK
    x = carray(pointer(job[X], like), channels)
    factors = carray(pointer(job[FACTORS], number), (5, lanes))
    for lane in range(lanes):
        factors[MIDDLE, lane] = _get(x, _channel(lane, channels, like.itemsize))


@lru_cache
def _sum_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _sum(job, like, number, version))


@inlined
def _sum(job_pointer, like, number, version):
    """Sums of the input's distance from the first pixel, and of its square."""
    job = carray(job_pointer, FIELDS)
    channels, period, size = job[CHANNELS], job[PERIOD], like.itemsize
    parts = carray(pointer(job[PARTS], DOUBLE), (job[WHOLE], 2, channels))
    tile = BLOCK * size
    while True:
        unit = take(job_pointer, 1)
        if unit >= job[UNITS]:
            break
        part, first, last = parts[unit], unit * job[UNIT], min((unit + 1) * job[UNIT], job[TILES])
        part[:] = 0
        for place in range(min(period, last - first)):
            at, factors = job[X] + (first + place) * tile, job[FACTORS] + place * BLOCK * number.itemsize
            row, sums = period * BLOCK * number.itemsize, job[SUMS] + unit * 2 * BLOCK * number.itemsize
            count = (last - first - place + period - 1) // period
            _sum_tiles(like, number, at, period * tile, count, factors, row, sums)
            _add_up(part, carray(pointer(sums, number), (2, BLOCK)), place * BLOCK, channels, size)
        if unit == job[WHOLE] - 1:
            x = carray(pointer(job[X], like), job[NUMBERS])
            factors = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                apart = np.float64(_get(x, i)) - factors[MIDDLE, _lane(i, period, size)]
                part[0, i % channels] += apart
                part[1, i % channels] += apart * apart


@inlined
def _add_up(part, sums, first, channels, size):
    """Adds the sums of a tile's lanes to those of their channels. first: the tile's first lane in the period."""
    for lane in range(BLOCK):
        channel = _channel(first + lane, channels, size)
        part[0, channel] += sums[0, lane]
        part[1, channel] += sums[1, lane]


@inlined
def _channel(lane, channels, size):
    """The channel of a lane of a period."""
    return (lane // BLOCK * BLOCK + _in_memory(lane % BLOCK, size)) % channels


@inlined
def _in_memory(lane, size):
    """The place in memory of a lane of a tile in registers. bfloat16 has even places in one vector, odd in the next."""
    if size != 2:
        return lane
    vector, step = lane // LANES, lane % LANES
    return vector // 2 * 2 * LANES + 2 * step + vector % 2


@lru_cache
def _settle_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _settle(job, like, number, version))


@inlined
def _settle(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    channels = job[CHANNELS]
    mean, inverse = carray(pointer(job[MEAN], number), channels), carray(pointer(job[INVERSE], number), channels)
    momentum, eps = carray(pointer(job[OPTIONS], DOUBLE), 2)
    x, count = carray(pointer(job[X], like), channels), job[NUMBERS] // channels
    total = _total(job)
    for channel in range(channels):
        apart = total[0, channel] / count
        middle, squares = _get(x, channel) + apart, total[1, channel] - apart * total[0, channel]
        squares = 0.0 if squares < 0 else squares
        mean[channel] = middle
        inverse[channel] = 1 / np.sqrt(squares / count + eps)
        if job[RUNNING_MEAN] != 0:
            running_mean = carray(pointer(job[RUNNING_MEAN], number), channels)
            running_var = carray(pointer(job[RUNNING_VAR], number), channels)
            running_mean[channel] += momentum * (middle - running_mean[channel])
            running_var[channel] += momentum * (squares / (count - 1) - running_var[channel])
    _expand(job_pointer, like, number, version)


@inlined
def _total(job):
    """The sums of all units, [2, channels], added up in the order of the units."""
    parts = carray(pointer(job[PARTS], DOUBLE), (job[WHOLE], 2, job[CHANNELS]))
    for unit in range(1, job[WHOLE]):
        parts[0] += parts[unit]
    return parts[0]


@lru_cache
def _expand_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _expand(job, like, number, version))


@inlined
def _expand(job_pointer, like, number, version):
    """Writes scale, term and mean for each lane of a period."""
    job = carray(job_pointer, FIELDS)
    channels, lanes = job[CHANNELS], job[PERIOD] * BLOCK
    mean, inverse = carray(pointer(job[MEAN], number), channels), carray(pointer(job[INVERSE], number), channels)
    weight, bias = carray(pointer(job[WEIGHT], number), channels), carray(pointer(job[BIAS], number), channels)
    factors = carray(pointer(job[FACTORS], number), (5, lanes))
    for lane in range(lanes):
        channel = _channel(lane, channels, like.itemsize)
        scale = np.float64(weight[channel]) * inverse[channel]
        factors[SCALE, lane] = scale
        factors[TERM, lane] = bias[channel] - mean[channel] * scale
        factors[MIDDLE, lane] = mean[channel]


@lru_cache
def _apply_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _apply(job, like, number, version))


@inlined
def _apply(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    period, size = job[PERIOD], like.itemsize
    lanes = BLOCK * number.itemsize
    together = job[UNIT] if period == 1 else 1  # tiles with the same factors that follow each other
    while True:
        unit = job[WHOLE] - 1 - take(job_pointer, 1)  # the last ones first: the sums have just read them
        if unit < 0:
            break
        last = min((unit + 1) * job[UNIT], job[TILES])
        for tile in range(unit * job[UNIT], last, together):
            at, factors = tile * BLOCK * size, job[FACTORS] + tile % period * lanes
            residual = job[RESIDUAL] + at if job[RESIDUAL] != 0 else 0
            count = min(together, last - tile)
            _apply_tiles(like, number, job[X] + at, residual, job[Y] + at, count, factors, period * lanes, job[RELU])
        if unit == job[WHOLE] - 1:
            factors = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            x, y = carray(pointer(job[X], like), job[NUMBERS]), carray(pointer(job[Y], like), job[NUMBERS])
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                lane = _lane(i, period, size)
                out = _get(x, i) * factors[SCALE, lane] + factors[TERM, lane]
                if job[RESIDUAL] != 0:
                    out += _get(carray(pointer(job[RESIDUAL], like), job[NUMBERS]), i)
                _put(y, i, number.dtype.type(0) if job[RELU] != 0 and out < 0 else out)


@inlined
def _lane(i, period, size):
    """The lane of the factors that belongs to number i in memory; the inverse of `_in_memory`."""
    tile, place = i // BLOCK % period, i % BLOCK
    if size == 2:
        inside = place % (2 * LANES)
        place = place - inside + inside % 2 * LANES + inside // 2
    return tile * BLOCK + place


# --- backward ---------------------------------------------------------------------------------------------------


@lru_cache
def _sum_back_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _sum_back(job, like, number, version))


@inlined
def _sum_back(job_pointer, like, number, version):
    """Sums of the gradient, and of it times the input's distance from the mean. Writes the masked gradient."""
    job = carray(job_pointer, FIELDS)
    channels, period, size = job[CHANNELS], job[PERIOD], like.itemsize
    parts = carray(pointer(job[PARTS], DOUBLE), (job[WHOLE], 2, channels))
    tile = BLOCK * size
    while True:
        unit = take(job_pointer, 1)
        if unit >= job[UNITS]:
            break
        part, first, last = parts[unit], unit * job[UNIT], min((unit + 1) * job[UNIT], job[TILES])
        part[:] = 0
        for place in range(min(period, last - first)):
            at, factors = (first + place) * tile, job[FACTORS] + place * BLOCK * number.itemsize
            row, sums = period * BLOCK * number.itemsize, job[SUMS] + unit * 2 * BLOCK * number.itemsize
            count = (last - first - place + period - 1) // period
            out = job[RESIDUAL] + at if job[RESIDUAL] != 0 else 0
            kept = job[MASKED] + at if job[MASKED] != 0 else 0
            x, d, step, relu = job[X] + at, job[D] + at, period * tile, job[RELU]
            _sum_back_tiles(like, number, x, d, out, kept, step, count, factors, row, relu, sums)
            _add_up(part, carray(pointer(sums, number), (2, BLOCK)), place * BLOCK, channels, size)
        if unit == job[WHOLE] - 1:
            factors = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            x = carray(pointer(job[X], like), job[NUMBERS])
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                d = _masked(job, like, number, i, factors, _lane(i, period, size))
                if job[MASKED] != 0:
                    masked = carray(pointer(job[MASKED], like), job[NUMBERS])
                    _put(masked, i, d)
                part[0, i % channels] += d
                part[1, i % channels] += np.float64(d) * (_get(x, i) - factors[MIDDLE, _lane(i, period, size)])


@inlined
def _masked(job, like, number, i, factors, lane):
    """Number i of the gradient, 0 where ReLU was."""
    d, x = carray(pointer(job[D], like), job[NUMBERS]), carray(pointer(job[X], like), job[NUMBERS])
    if job[RESIDUAL] != 0:
        live = _get(carray(pointer(job[RESIDUAL], like), job[NUMBERS]), i) > 0
    else:
        live = job[RELU] == 0 or _get(x, i) * factors[SCALE, lane] + factors[TERM, lane] > 0
    return _get(d, i) if live else number.dtype.type(0)


@lru_cache
def _settle_back_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _settle_back(job, like, number, version))


@inlined
def _settle_back(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    channels, lanes = job[CHANNELS], job[PERIOD] * BLOCK
    count = job[NUMBERS] // channels
    inverse, weight = carray(pointer(job[INVERSE], number), channels), carray(pointer(job[WEIGHT], number), channels)
    by_weight = carray(pointer(job[BY_WEIGHT], number), channels)
    by_bias = carray(pointer(job[BY_BIAS], number), channels)
    factors = carray(pointer(job[FACTORS], number), (5, lanes))
    total = _total(job)
    for channel in range(channels):
        total[1, channel] *= inverse[channel]
        by_bias[channel], by_weight[channel] = total[0, channel], total[1, channel]
    for lane in range(lanes):
        channel = _channel(lane, channels, like.itemsize)
        scale = np.float64(weight[channel]) * inverse[channel]
        factors[SLOPE, lane] = -scale * inverse[channel] * total[1, channel] / count
        factors[SHIFT, lane] = -scale * total[0, channel] / count


@lru_cache
def _apply_back_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: _apply_back(job, like, number, version))


@inlined
def _apply_back(job_pointer, like, number, version):
    job = carray(job_pointer, FIELDS)
    period, size = job[PERIOD], like.itemsize
    lanes = BLOCK * number.itemsize
    together = job[UNIT] if period == 1 else 1
    d_from = job[MASKED] if job[MASKED] != 0 else job[D]
    relu = job[RELU] if job[MASKED] == 0 else 0
    while True:
        unit = job[WHOLE] - 1 - take(job_pointer, 1)
        if unit < 0:
            break
        last = min((unit + 1) * job[UNIT], job[TILES])
        for tile in range(unit * job[UNIT], last, together):
            at, factors = tile * BLOCK * size, job[FACTORS] + tile % period * lanes
            count = min(together, last - tile)
            _apply_back_tiles(like, number, job[X] + at, d_from + at, job[Y] + at, count, factors, period * lanes, relu)
        if unit == job[WHOLE] - 1:
            factors = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            x, y = carray(pointer(job[X], like), job[NUMBERS]), carray(pointer(job[Y], like), job[NUMBERS])
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                lane = _lane(i, period, size)
                d = _masked(job, like, number, i, factors, lane)
                slope = factors[SLOPE, lane] * (_get(x, i) - factors[MIDDLE, lane])
                _put(y, i, factors[SCALE, lane] * d + slope + factors[SHIFT, lane])


# --- loops over tiles --------------------------------------------------------------------------------------------


def _numbers(tiles: Tiles, address) -> list:
    """The vectors of a tile of what is computed."""
    return [tiles.builder.load(tiles.at(address, tiles.vector, j), align=4) for j in range(VECTORS)]


def _keep(tiles: Tiles, vectors: list, address) -> None:
    """Writes vectors of what is computed."""
    for j, vector in enumerate(vectors):
        tiles.builder.store(vector, tiles.at(address, tiles.vector, j), align=4)


def _bytes_of_tile(signature) -> ir.Constant:
    return LONG(BLOCK * signature.args[0].dtype.bitwidth // 8)


def _row(tiles: Tiles, address, row: int, step):
    """The address of a row of the factors."""
    return tiles.builder.add(address, tiles.builder.mul(step, LONG(row)))


@intrinsic
def _sum_tiles(typing, like, number, x, step, count, factors, row, sums):
    """For each lane of `count` tiles, `step` bytes apart: Σ(x - middle) and Σ(x - middle)².

    factors: of the first row; the others are `row` bytes apart.
    """

    def codegen(context, builder, signature, arguments):
        x, step, count, factors, row, sums = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        middle, zeros = _numbers(tiles, _row(tiles, factors, MIDDLE, row)), [tiles.zero] * (2 * VECTORS)

        def body(i, carried):
            numbers = tiles.load(builder.add(x, builder.mul(i, step)))
            apart = [builder.fsub(a, b) for a, b in zip(numbers, middle, strict=True)]
            total = [builder.fadd(s, a) for s, a in zip(carried[:VECTORS], apart, strict=True)]
            return total + [tiles.fma(a, a, q) for q, a in zip(carried[VECTORS:], apart, strict=True)]

        _keep(tiles, tiles.loop(LONG(0), count, zeros, body), sums)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 6), codegen


@intrinsic
def _apply_tiles(typing, like, number, x, residual, y, count, factors, row, relu):
    """y = scale·x + term (+ residual, 0: none), and ReLU unless `relu` is 0, of `count` tiles with the same factors."""

    def codegen(context, builder, signature, arguments):
        x, residual, y, count, factors, row, relu = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        scale, term = _numbers(tiles, factors), _numbers(tiles, _row(tiles, factors, TERM, row))
        size = _bytes_of_tile(signature)

        def body(i, carried):
            at = builder.mul(i, size)
            out = [tiles.fma(a, b, c) for a, b, c in zip(tiles.load(builder.add(x, at)), scale, term, strict=True)]

            def add():
                added = tiles.load(builder.add(residual, at))
                return [builder.fadd(a, b) for a, b in zip(out, added, strict=True)]

            out = tiles.unless_zero(residual, out, add)
            # NaN is not below 0, and stays.
            clipped = [builder.select(builder.fcmp_ordered("<", a, tiles.zero), tiles.zero, a) for a in out]
            given = builder.icmp_signed("!=", relu, LONG(0))
            tiles.store([builder.select(given, a, b) for a, b in zip(clipped, out, strict=True)], builder.add(y, at))
            return []

        tiles.loop(LONG(0), count, [], body)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 7), codegen


def _without_dead(tiles: Tiles, d: list, signs: list) -> list:
    """d where the sign is positive, 0 elsewhere."""
    b = tiles.builder
    return [b.select(b.fcmp_ordered(">", s, tiles.zero), v, tiles.zero) for v, s in zip(d, signs, strict=True)]


@intrinsic
def _sum_back_tiles(typing, like, number, x, d, out, masked, step, count, factors, row, relu, sums):
    """For each lane of `count` tiles, `step` bytes apart: Σd and Σd·(x - middle), with d 0 where ReLU was.

    out: whose sign says so; 0: that of scale·x + term does, unless `relu` is 0. masked: gets d, unless it is 0.
    factors: as in `_sum_tiles`.
    """

    def codegen(context, builder, signature, arguments):
        x, d, out, masked, step, count, factors, row, relu, sums = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        scale, term = _numbers(tiles, factors), _numbers(tiles, _row(tiles, factors, TERM, row))
        middle, zeros = _numbers(tiles, _row(tiles, factors, MIDDLE, row)), [tiles.zero] * (2 * VECTORS)
        alone = builder.select(builder.icmp_signed("!=", out, LONG(0)), LONG(0), relu)

        def body(i, carried):
            at = builder.mul(i, step)
            numbers, gradient = tiles.load(builder.add(x, at)), tiles.load(builder.add(d, at))

            def by_output():
                kept = _without_dead(tiles, gradient, tiles.load(builder.add(out, at)))
                tiles.store(kept, builder.add(masked, at))
                return kept

            def by_input():
                signs = [tiles.fma(a, b, c) for a, b, c in zip(numbers, scale, term, strict=True)]
                return _without_dead(tiles, gradient, signs)

            kept = tiles.unless_zero(out, gradient, by_output)
            kept = tiles.unless_zero(alone, kept, by_input)
            apart = [builder.fsub(a, b) for a, b in zip(numbers, middle, strict=True)]
            total = [builder.fadd(s, a) for s, a in zip(carried[:VECTORS], kept, strict=True)]
            return total + [tiles.fma(a, b, q) for q, a, b in zip(carried[VECTORS:], kept, apart, strict=True)]

        _keep(tiles, tiles.loop(LONG(0), count, zeros, body), sums)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 10), codegen


@intrinsic
def _apply_back_tiles(typing, like, number, x, d, y, count, factors, row, relu):
    """y = scale·d + slope·(x - mean) + shift of `count` tiles with the same factors.

    relu: unless it is 0, d counts as 0 where scale·x + term is not positive.
    """

    def codegen(context, builder, signature, arguments):
        x, d, y, count, factors, row, relu = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        rows = [_numbers(tiles, _row(tiles, factors, k, row)) for k in range(5)]
        size = _bytes_of_tile(signature)

        def body(i, carried):
            at = builder.mul(i, size)
            numbers, gradient = tiles.load(builder.add(x, at)), tiles.load(builder.add(d, at))

            def by_input():
                signs = [tiles.fma(a, b, c) for a, b, c in zip(numbers, rows[SCALE], rows[TERM], strict=True)]
                return _without_dead(tiles, gradient, signs)

            kept = tiles.unless_zero(relu, gradient, by_input)
            apart = [builder.fsub(a, b) for a, b in zip(numbers, rows[MIDDLE], strict=True)]
            out = [tiles.fma(a, b, c) for a, b, c in zip(apart, rows[SLOPE], rows[SHIFT], strict=True)]
            tiles.store(
                [tiles.fma(a, b, c) for a, b, c in zip(kept, rows[SCALE], out, strict=True)], builder.add(y, at)
            )
            return []

        tiles.loop(LONG(0), count, [], body)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 7), codegen
