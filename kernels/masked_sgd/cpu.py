"""masked_sgd on the CPU: one pass in Numba, a byte of mask a weight (packed bits cost more there than they save).

Threads take the blocks of `PAD` weights from one counter, a few at a time. Neither prefetching the next block nor huge
pages for the arenas gained anything where it was measured (two EPYC cores, 25.6 M weights), so there is neither.
"""

import operator
from functools import lru_cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .._compile import callback, compiled
from .._memory import AS, BYTES, pointer, read, take, write
from .._threads import share
from .layout import PAD, Layout

PARALLEL_FROM = 1 << 16  # weights, 10 µs of one core: torch's threads start within 2 when they have just worked
TAKEN = 32  # blocks a thread takes at a time

# Fields of a job, before the columns of its parameters: `NEXT` is the counter that `share` resets.
NEXT, BLOCKS, PARAMETERS, MOMENTUM, MASK, TABLE, BEGUN, HYPERPARAMETERS, GROUPS, FLAGS, HEADER = range(11)
FIRST_STEP, REWRITE, LIVE_MOMENTUM = 1, 2, 4
WEIGHTS, GRADIENTS, OFFSETS, SIZES, GROUP, FIRST_BLOCK = range(6)  # rows of the columns
LONG, DOUBLE = np.empty(0, np.int64), np.empty(0)


def step(
    layout: Layout,
    dtype: torch.dtype,
    addresses: np.ndarray,
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    first_step: bool,
    rewrite: bool,
    blocks: Tensor | None,
    live_momentum: bool,
    begun: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """One step in CPU memory, unchecked. addresses: of parameters of that dtype, then of gradients (0: leave alone)."""
    if not layout.blocks or (found_inf is not None and found_inf.item() != 0):
        return
    arenas = (momentum, mask, blocks, begun, hyperparameters)
    job = layout.tables
    # A copy of hyperparameters that are not float64 would go stale.
    if job is None or hyperparameters.dtype != torch.float64 or not all(map(operator.is_, job.arenas, arenas)):
        job = layout.tables = _Job(layout, arenas)
    job.addresses[:] = addresses
    rows = job.rows
    if grad_scale is not None:
        rows = rows.copy()
        rows[:, 5] /= grad_scale.item()  # the column of the gradient's sign
        job.words[HYPERPARAMETERS] = rows.ctypes.data
    job.words[FLAGS] = FIRST_STEP * first_step | REWRITE * rewrite | LIVE_MOMENTUM * live_momentum
    job.words[NEXT] = 0
    share(_body(dtype), job.pointer, layout.weights >= PARALLEL_FROM)
    if grad_scale is not None:
        job.words[HYPERPARAMETERS] = job.rows.ctypes.data


class _Job:
    """What `_work` reads. Kept from step to step, as a small network's step is as long as filling it in."""

    def __init__(self, layout: Layout, arenas: tuple[Tensor | None, ...]):
        momentum, mask, blocks, begun, hyperparameters = self.arenas = arenas
        count = len(layout.sizes)
        self.rows = hyperparameters.double().numpy()
        self.words = np.zeros(HEADER + 6 * count, dtype=np.int64)
        self.pointer = self.words.ctypes.data
        self.addresses = self.words[HEADER : HEADER + 2 * count]
        self.words[HEADER + 2 * count :] = layout.rows.ravel()
        self.words[BLOCKS:FLAGS] = (
            layout.blocks,
            count,
            momentum.data_ptr(),
            mask.data_ptr(),
            0 if blocks is None else blocks.data_ptr(),
            0 if begun is None else begun.data_ptr(),
            self.rows.ctypes.data,
            len(self.rows),
        )


@lru_cache
def _body(dtype: torch.dtype):
    like, wide = AS[dtype], AS[torch.float64 if dtype == torch.float64 else torch.float32]
    return callback(lambda job: _work(job, like, wide))


@compiled
def _work(job_pointer, like, wide):
    """What each thread does: takes blocks until none is left. like: the type of weights, wide: of momentum."""
    number = wide.dtype.type
    job = carray(job_pointer, HEADER)
    count, flags = job[PARAMETERS], job[FLAGS]
    columns = carray(job_pointer, HEADER + 6 * count)[HEADER:].reshape((6, count))
    hyperparameters = carray(pointer(job[HYPERPARAMETERS], DOUBLE), (job[GROUPS], 7))
    scratch = np.empty(PAD, number)
    while True:
        block = take(job_pointer, TAKEN)
        stop = min(job[BLOCKS], block + TAKEN)
        if block >= stop:
            return
        t = _parameter_of(columns[FIRST_BLOCK], block)
        while block < stop:
            while t + 1 < count and columns[FIRST_BLOCK, t + 1] <= block:
                t += 1
            end = stop if t + 1 == count else min(stop, columns[FIRST_BLOCK, t + 1])
            if columns[GRADIENTS, t] == 0:
                block = end
            h = hyperparameters[columns[GROUP, t]]
            while block < end:
                start = (block - columns[FIRST_BLOCK, t]) * PAD
                size, at = min(PAD, columns[SIZES, t] - start), columns[OFFSETS, t] + start
                weights = carray(pointer(columns[WEIGHTS, t] + start * like.itemsize, like), size)
                gradients = carray(pointer(columns[GRADIENTS, t] + start * like.itemsize, like), size)
                live = carray(pointer(job[MASK] + at, BYTES), size)
                alive, place = -1, at
                if job[TABLE] != 0:
                    row = carray(pointer(job[TABLE] + at // PAD * 16, LONG), 2)
                    alive = row[0]
                    if flags & LIVE_MOMENTUM:
                        place = row[1]
                buffers = carray(pointer(job[MOMENTUM] + place * wide.itemsize, wide), size)
                first = flags & FIRST_STEP != 0
                if job[BEGUN] != 0 and h[1] != 0:
                    begun = carray(pointer(job[BEGUN] + at // PAD, BYTES), 1)
                    first = first or begun[0] == 0
                    begun[0] = 1
                _block(weights, gradients, buffers, live, h, alive, first, flags, scratch)
                block += 1


@compiled
def _parameter_of(first_blocks, block):
    low, high = 0, first_blocks.size - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if first_blocks[middle] <= block:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def _block(weights, gradients, buffers, live, h, alive, first, flags, scratch):
    """At most `PAD` weights of one parameter. alive: how many live, or -1; `flags` says where their momentum stands."""
    number = buffers.dtype.type
    if alive == 0:
        if flags & REWRITE:
            for i in range(weights.size):
                weights[i] = weights.dtype.type(0)
            if h[1] != 0 and not flags & LIVE_MOMENTUM:
                buffers[:] = number(0)
        return
    lr, mu, keep, decay = number(h[0]), number(h[1]), number(h[2]), number(h[3])
    shrink, sign, nesterov = number(h[4]), number(h[5]), h[6] != 0
    full = alive == weights.size
    if h[1] == 0:
        _plain(weights, gradients, live, full, lr, decay, shrink, sign)
    elif full or not flags & LIVE_MOMENTUM:
        _with_momentum(weights, gradients, buffers, live, full, lr, mu, decay, shrink, sign, nesterov, first, keep)
    else:
        wide = scratch[: weights.size]
        _expand(wide, buffers, live)
        _with_momentum(weights, gradients, wide, live, full, lr, mu, decay, shrink, sign, nesterov, first, keep)
        _compress(buffers, wide, live)


@compiled
def _plain(weights, gradients, live, full, lr, decay, shrink, sign):
    zero = lr - lr
    for i in range(weights.size):
        weight, direction = read(weights, i), sign * read(gradients, i)
        if decay != 0:
            direction += decay * weight
        weight = shrink * weight - lr * direction
        write(weights, i, weight if full or live[i] != 0 else zero)


@compiled
def _with_momentum(weights, gradients, buffers, live, full, lr, mu, decay, shrink, sign, nesterov, first, keep):
    zero = mu - mu
    for i in range(weights.size):
        weight, direction = read(weights, i), sign * read(gradients, i)
        if decay != 0:
            direction += decay * weight
        buffer = direction if first else mu * buffers[i] + keep * direction
        step = direction + mu * buffer if nesterov else buffer
        weight = shrink * weight - lr * step
        buffers[i] = buffer if full or live[i] != 0 else zero
        write(weights, i, weight if full or live[i] != 0 else zero)


# Live momentum is spread over a block in the first-level cache and gathered again, without a branch a weight, which at
# random masks costs five times as much: what is read or written for a masked weight belongs to the next live one.


@compiled
def _expand(wide, buffers, live):
    place = 0
    for i in range(wide.size):
        wide[i] = buffers[place]
        place += live[i]


@compiled
def _compress(buffers, wide, live):
    """Overwrites `wide`, as the place after the last live weight of a block belongs to another thread's block."""
    place = 0
    for i in range(wide.size):
        wide[place] = wide[i]
        place += live[i]
    for i in range(place):
        buffers[i] = wide[i]
