"""interpolate on the CPU: one pass in Numba, a block of weights at a time, from which all K rows are written."""

import numpy as np
from numba import carray
from torch import Tensor

from .._compile import compiled
from .._memory import AS, BYTES, LINE, pointer, prefetch, read, write
from .._threads import split

PARALLEL_FROM = 1 << 18  # values written; handing parts to threads costs about 60 µs (two EPYC cores)
BLOCK = 2048  # weights: a path's two ends and their difference take 24 KB, half of the first-level cache


def interpolate(
    out: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    third: list[Tensor],
    coefficients: Tensor,
    masks: list[Tensor | None],
    prunable: list[bool],
) -> None:
    """The operator on CPU tensors, unchecked. coefficients: [2, K, 2], of prunable tensors and of the others."""
    points = coefficients.shape[1]
    if not first or not points:
        return
    sizes = list(map(Tensor.numel, first))
    rows = [
        *([tensor.data_ptr() for tensor in tensors] for tensors in (out, first, second, third or first)),
        [0 if mask is None else mask.data_ptr() for mask in masks],
        [tensor.stride(0) for tensor in out],
        sizes,
        [0 if flag else 1 for flag in prunable],
    ]
    like, table, total = AS[first[0].dtype], np.array(rows, dtype=np.int64), sum(sizes)
    arguments = (table, coefficients.numpy(), like, BYTES, like.itemsize, len(third) > 0)
    split(_interpolate, arguments, total, max(2, PARALLEL_FROM // points))


@compiled
def _interpolate(table, coefficients, like, like_mask, itemsize, plane, start, stop):
    """Weights start to stop, counted over the tensors as if they stood one after the other."""
    number = coefficients.dtype.type
    a, b, c = np.empty(BLOCK, number), np.empty(BLOCK, number), np.empty(BLOCK, number)
    ab, ac, bc = np.empty(BLOCK, number), np.empty(BLOCK, number), np.empty(BLOCK, number)
    row = np.empty(BLOCK, number)
    points = coefficients.shape[1]
    lines = np.arange(points + 1) * (BLOCK * itemsize // LINE) // points
    before = 0
    for tensor in range(table.shape[1]):
        size, stride = table[6, tensor], table[5, tensor]
        low, high = max(start - before, 0), min(stop - before, size)
        before += size
        for block in range(low, high, BLOCK):
            n = min(BLOCK, high - block)
            _load(a, carray(pointer(table[1, tensor] + block * itemsize, like), n))
            _load(b, carray(pointer(table[2, tensor] + block * itemsize, like), n))
            if plane:
                _load(c, carray(pointer(table[3, tensor] + block * itemsize, like), n))
            if table[4, tensor] != 0:
                live = carray(pointer(table[4, tensor] + block, like_mask), n)
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
                # The next block comes while this one's rows are written; else each would wait for its first lines.
                for end in range(1, 4 if plane else 3):
                    following = table[end, tensor] + (block + BLOCK) * itemsize
                    for j in range(lines[k], lines[k + 1]):
                        prefetch(following + j * LINE)
                s, t = coefficients[table[7, tensor], k, 0], coefficients[table[7, tensor], k, 1]
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
                address = table[0, tensor] + (k * stride + block) * itemsize
                target = carray(pointer(address, like), n)
                if x == 0:
                    _copy(target, base)
                else:
                    _add(target, base, x, first)


@compiled
def _load(block, source):
    for i in range(source.size):
        block[i] = read(source, i)


# A factor of 0 leaves its term out, as 0·NaN must not reach an end.


@compiled
def _copy(target, base):
    for i in range(target.size):
        write(target, i, base[i])


@compiled
def _add(target, base, x, first):
    for i in range(target.size):
        write(target, i, base[i] + x * first[i])
