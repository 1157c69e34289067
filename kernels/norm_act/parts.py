"""The parts of norm_act on the CPU, compiled by Numba: sums, statistics and results, unit by unit.

A part reads the words of its call: counters, addresses and numbers, at the places named below.
"""

import numpy as np
from numba import carray

from .._compile import inlined
from .._jobs import DOUBLE, FIRST, NEXT, UNITS
from .._memory import pointer, read, take, write
from .._vectors import BLOCK, LANES
from .loops import MIDDLE, SCALE, SHIFT, SLOPE, TERM, apply_back_tiles, apply_tiles, sum_back_tiles, sum_tiles

# The words of a call's memory: addresses, then numbers.
X, Y, RESIDUAL, D, MASKED, PARTS, SUMS, FACTORS, MEAN, INVERSE, WEIGHT, BIAS = range(FIRST, FIRST + 12)
RUNNING_MEAN, RUNNING_VAR, OPTIONS = range(FIRST + 12, FIRST + 15)
CHANNELS, TILES, PERIOD, UNIT, NUMBERS, RELU, WHOLE = range(FIRST + 15, FIRST + 22)
FIELDS = FIRST + 22
BY_WEIGHT, BY_BIAS = RUNNING_MEAN, RUNNING_VAR  # in the backward pass


@inlined
def forward(job_pointer, like, number, version):
    """All parts of the forward pass, on one thread."""
    expand_first(job_pointer, like, number, version)
    sum_units(job_pointer, like, number, version)
    settle(job_pointer, like, number, version)
    job_pointer[NEXT] = 0
    apply(job_pointer, like, number, version)


@inlined
def backward(job_pointer, like, number, version):
    """All parts of the backward pass, on one thread."""
    expand(job_pointer, like, number, version)
    sum_units(job_pointer, like, number, version)
    settle_back(job_pointer, like, number, version)
    job_pointer[NEXT] = 0
    apply(job_pointer, like, number, version)


# Numba inlines `read` and `write`, and then drops what their caller writes to arrays that are made from an address and
# not read again. So they are called in functions of their own.
@inlined
def _get(array, i):
    return read(array, i)


@inlined
def _put(array, i, number):
    write(array, i, number)


@inlined
def expand_first(job_pointer, like, number, version):
    """Writes, for each lane of a period, the number that sums are taken around: that of the first pixel."""
    job = carray(job_pointer, FIELDS)
    channels, lanes = job[CHANNELS], job[PERIOD] * BLOCK
    x = carray(pointer(job[X], like), channels)
    factors = carray(pointer(job[FACTORS], number), (5, lanes))
    for lane in range(lanes):
        factors[MIDDLE, lane] = _get(x, _channel(lane, channels, like.itemsize))


@inlined
def sum_units(job_pointer, like, number, version):
    """Sums a number, and it times the distance of x from `MIDDLE`. Forward the number is that distance, backward d.

    Writes the masked gradient.
    """
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
            x, step, count = job[X] + at, period * tile, (last - first - place + period - 1) // period
            if job[D] == 0:
                sum_tiles(like, number, x, step, count, factors, row, sums)
            else:
                out = job[RESIDUAL] + at if job[RESIDUAL] != 0 else 0
                kept = job[MASKED] + at if job[MASKED] != 0 else 0
                d, relu = job[D] + at, job[RELU]
                sum_back_tiles(like, number, x, d, out, kept, step, count, factors, row, relu, sums)
            _add_up(part, carray(pointer(sums, number), (2, BLOCK)), place * BLOCK, channels, size)
        if unit == job[WHOLE] - 1:
            numbers = carray(pointer(job[X], like), job[NUMBERS])
            table = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                lane = _lane(i, period, size)
                summed = apart = np.float64(_get(numbers, i)) - table[MIDDLE, lane]
                if job[D] != 0:
                    summed = np.float64(_masked(job, like, number, i, table, lane))
                    if job[MASKED] != 0:
                        _put(carray(pointer(job[MASKED], like), job[NUMBERS]), i, number.dtype.type(summed))
                part[0, i % channels] += summed
                part[1, i % channels] += summed * apart


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


@inlined
def settle(job_pointer, like, number, version):
    """Turns the sums into mean, 1 / standard deviation, running statistics and factors."""
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
    expand(job_pointer, like, number, version)


@inlined
def _total(job):
    """The sums of all units, [2, channels], added up in the order of the units."""
    parts = carray(pointer(job[PARTS], DOUBLE), (job[WHOLE], 2, job[CHANNELS]))
    for unit in range(1, job[WHOLE]):
        parts[0] += parts[unit]
    return parts[0]


@inlined
def expand(job_pointer, like, number, version):
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


@inlined
def apply(job_pointer, like, number, version):
    """Writes the output, or the gradient of the input, unit by unit."""
    job = carray(job_pointer, FIELDS)
    period, size = job[PERIOD], like.itemsize
    lanes = BLOCK * number.itemsize
    together = job[UNIT] if period == 1 else 1  # tiles with the same factors that follow each other
    d = job[MASKED] if job[MASKED] != 0 else job[D]
    relu = job[RELU] if job[MASKED] == 0 else 0  # the masked gradient is 0 already where ReLU cut off
    while True:
        unit = job[WHOLE] - 1 - take(job_pointer, 1)  # the last ones first: the sums have just read them
        if unit < 0:
            break
        last = min((unit + 1) * job[UNIT], job[TILES])
        for tile in range(unit * job[UNIT], last, together):
            at, factors = tile * BLOCK * size, job[FACTORS] + tile % period * lanes
            x, y, count, row = job[X] + at, job[Y] + at, min(together, last - tile), period * lanes
            if job[D] == 0:
                residual = job[RESIDUAL] + at if job[RESIDUAL] != 0 else 0
                apply_tiles(like, number, x, residual, y, count, factors, row, relu)
            else:
                apply_back_tiles(like, number, x, d + at, y, count, factors, row, relu)
        if unit == job[WHOLE] - 1:
            table = carray(pointer(job[FACTORS], number), (5, period * BLOCK))
            numbers, results = carray(pointer(job[X], like), job[NUMBERS]), carray(pointer(job[Y], like), job[NUMBERS])
            for i in range(job[TILES] * BLOCK, job[NUMBERS]):
                lane = _lane(i, period, size)
                _put(results, i, _applied(job, like, number, i, _get(numbers, i), table, lane))


@inlined
def _applied(job, like, number, i, x, factors, lane):
    """Number i of the output, or of the input's gradient."""
    if job[D] != 0:
        d = _masked(job, like, number, i, factors, lane)
        slope = factors[SLOPE, lane] * (x - factors[MIDDLE, lane])
        return factors[SCALE, lane] * d + slope + factors[SHIFT, lane]
    out = x * factors[SCALE, lane] + factors[TERM, lane]
    if job[RESIDUAL] != 0:
        out += _get(carray(pointer(job[RESIDUAL], like), job[NUMBERS]), i)
    return number.dtype.type(0) if job[RELU] != 0 and out < 0 else out


@inlined
def _lane(i, period, size):
    """The lane of the factors that belongs to number i in memory; the inverse of `_in_memory`."""
    tile, place = i // BLOCK % period, i % BLOCK
    if size == 2:
        inside = place % (2 * LANES)
        place = place - inside + inside % 2 * LANES + inside // 2
    return tile * BLOCK + place


@inlined
def _masked(job, like, number, i, factors, lane):
    """Number i of the gradient, 0 where ReLU was."""
    d, x = carray(pointer(job[D], like), job[NUMBERS]), carray(pointer(job[X], like), job[NUMBERS])
    if job[RESIDUAL] != 0:
        live = _get(carray(pointer(job[RESIDUAL], like), job[NUMBERS]), i) > 0
    else:
        live = job[RELU] == 0 or _get(x, i) * factors[SCALE, lane] + factors[TERM, lane] > 0
    return _get(d, i) if live else number.dtype.type(0)


@inlined
def settle_back(job_pointer, like, number, version):
    """Turns the sums into the gradients of weight and bias, and the factors of the gradient of the input."""
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
