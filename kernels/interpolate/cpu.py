"""interpolate on the CPU: one pass in Numba that writes all K rows of a block of weights before the next block."""

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .._compile import compiled
from .._memory import AS, BYTES, LINE, pointer, prefetch, read, write
from .._stream import end_of_stream, stream
from .._threads import split
from .table import FIRST, KIND, MASK, OUT, SECOND, SIZE, STRIDE, THIRD, table_of

PARALLEL_FROM = 1 << 18  # values written; handing parts to threads costs about 60 µs (two EPYC cores)
# Bytes of output from which stores bypass the caches. If all rows are read again later, 24 MB break even, 8 MB take
# two fifths longer and 256 MB a fifth less or better (two EPYC cores, 32 MB of last-level cache).
STREAM_FROM = 1 << 25
BLOCK = 2048  # weights: a path's two ends and their difference take 24 KB, half of the first-level cache
BLOCK_OF_STREAM = 8192  # weights: several pages a row, because each new page costs a walk of the page tables


def interpolate(
    out: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    third: list[Tensor],
    coefficients: Tensor,
    masks: list[Tensor | None],
    prunable: list[bool],
) -> None:
    """The operator on CPU tensors; only shared memory is checked. coefficients: [2, K, 2]: of prunable, of others."""
    points = coefficients.shape[1]
    if not first or not points:
        return
    table, like = table_of(out, first, second, third, masks, prunable), AS[first[0].dtype]
    total = int(table[SIZE].sum())
    past = total * points * like.itemsize >= STREAM_FROM
    most = BLOCK_OF_STREAM if past else BLOCK
    arguments = (table, coefficients.numpy(), like, BYTES, like.itemsize, len(third) > 0, past, most)
    split(_interpolate, arguments, total, max(2, PARALLEL_FROM // points))
    torch.autograd.graph.increment_version(out)


@compiled
def _interpolate(table, coefficients, like, like_mask, itemsize, plane, past, most, start, stop):
    """Interpolates weights start to stop, with all tensors seen as one sequence, at most `most` at a time.

    past: whether stores bypass the caches.
    """
    number = coefficients.dtype.type
    a, b, c = np.empty(most, number), np.empty(most, number), np.empty(most, number)
    ab, ac, bc = np.empty(most, number), np.empty(most, number), np.empty(most, number)
    row, last = np.empty(most, number), np.empty(most, like.dtype)
    points = coefficients.shape[1]
    lines = np.arange(points + 1) * (most * itemsize // LINE) // points
    before = 0
    for tensor in range(table.shape[1]):
        size, stride = table[SIZE, tensor], table[STRIDE, tensor]
        low, high = max(start - before, 0), min(stop - before, size)
        before += size
        for block in range(low, high, most):
            n = min(most, high - block)
            _load(a, carray(pointer(table[FIRST, tensor] + block * itemsize, like), n))
            _load(b, carray(pointer(table[SECOND, tensor] + block * itemsize, like), n))
            if plane:
                _load(c, carray(pointer(table[THIRD, tensor] + block * itemsize, like), n))
            if table[MASK, tensor] != 0:
                live = carray(pointer(table[MASK, tensor] + block, like_mask), n)
                for end in (a, b, c):
                    for i in range(n):
                        end[i] = end[i] if live[i] != 0 else number(0)
            for i in range(n):
                ab[i] = b[i] - a[i]
            if plane:
                for i in range(n):
                    ac[i] = c[i] - a[i]
                    bc[i] = c[i] - b[i]
            for k in range(points):
                # Prefetch the next block while this one's rows are written, so that it does not wait for memory.
                for end in range(3 if plane else 2):
                    following = table[FIRST + end, tensor] + (block + most) * itemsize
                    for j in range(lines[k], lines[k + 1]):
                        prefetch(following + j * LINE)
                s, t = coefficients[table[KIND, tensor], k, 0], coefficients[table[KIND, tensor], k, 1]
                r = number(1) - s - t
                base, x, first, y, second = a, s, ab, t, ac
                if s >= r and s >= t:
                    base, x, first, y, second = b, -r, ab, t, bc
                elif t >= r:
                    base, x, first, y, second = c, -r, ac, -s, bc
                if x == 0:
                    x, first = y, second
                elif y != 0:
                    _add(row, base, x, first)
                    base, x, first = row, y, second
                address = table[OUT, tensor] + (k * stride + block) * itemsize
                target = last[:n] if past else carray(pointer(address, like), n)
                if x == 0:
                    _copy(target, base)
                else:
                    _add(target, base, x, first)
                if past:
                    stream(address, last.ctypes.data, n * itemsize)
    if past:
        end_of_stream()


@compiled
def _load(block, source):
    for i in range(source.size):
        block[i] = read(source, i)


# A term with factor 0 is left out, so that 0·NaN does not reach an end.


@compiled
def _copy(target, base):
    for i in range(target.size):
        write(target, i, base[i])


@compiled
def _add(target, base, x, first):
    for i in range(target.size):
        write(target, i, base[i] + x * first[i])
