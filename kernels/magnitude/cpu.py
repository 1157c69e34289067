"""magnitude_threshold on the CPU, in Numba: each thread makes the histogram of its part of the weights."""

import numpy as np
import torch
from numba import carray, types
from numba.extending import overload
from torch import Tensor

from .._compile import compiled
from .._memory import BYTES, pointer
from .._threads import split
from . import NAN_KEY

PARALLEL_FROM = 1 << 20  # weights; handing parts to threads costs about 60 µs (two EPYC cores)
CHUNK = 64  # weights; later passes skip a chunk in which none has the right higher bits
# Widths of the digits, the highest first. After 16 bits few weights are left, so a second pass suffices. For a small
# network, clearing and adding 65,536 counters takes longer than a third pass.
DIGITS = (16, 15)
DIGITS_OF_FEW = (11, 10, 10)
FEW = 1 << 17  # weights


def threshold(
    weights: list[Tensor], masks: list[Tensor | None], count: Tensor, layerwise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator on CPU tensors, unchecked."""
    live, not_finite = np.zeros(len(weights), np.int64), np.zeros(len(weights), np.int64)
    wanted, (table, like) = count.tolist(), _table(weights, masks)
    groups = [slice(i, i + 1) for i in range(len(weights))] if layerwise else [slice(None)]
    values, ties = np.empty(len(groups), np.float32), np.empty(len(groups), np.int64)
    for g, group in enumerate(groups):
        values[g], ties[g] = _select(table[:, group], like, wanted[g], live[group], not_finite[group])
    return torch.from_numpy(values), torch.from_numpy(ties), torch.from_numpy(live), torch.from_numpy(not_finite)


def keep(
    weights: list[Tensor], masks: list[Tensor | None], threshold: Tensor, ties: Tensor | None, layerwise: bool
) -> list[Tensor]:
    """The operator on contiguous CPU tensors, unchecked."""
    out = [torch.empty_like(weight, dtype=torch.bool) for weight in weights]
    table, like = _table(weights, masks)
    table = np.concatenate([table, [[mask.data_ptr() for mask in out]]])
    groups = [slice(i, i + 1) for i in range(len(weights))] if layerwise else [slice(None)]
    bits = np.minimum(threshold.numpy().view(np.int32) & 0x7FFFFFFF, NAN_KEY)
    bits[threshold.numpy() < 0] = -1
    for g, group in enumerate(groups):
        layers, key = table[:, group], int(bits[g])
        # The parallel pass cannot count ties in order, so it keeps them; then the first `ties` are removed in order.
        lowest = max(key, 0) if ties is not None else key + 1
        split(_keep, (layers, like, BYTES, lowest), int(layers[2].sum()), PARALLEL_FROM)
        if ties is not None:
            _drop_first(layers, like, BYTES, key, int(ties[g]))
    return out


def _table(weights: list[Tensor], masks: list[Tensor | None]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [3, layers]: addresses of weights and masks (0: none), number of weights; and an array of their type."""
    live = [0 if mask is None else mask.data_ptr() for mask in masks]
    rows = [[w.data_ptr() for w in weights], live, [w.numel() for w in weights]]
    bits = np.empty(0, np.uint16 if weights[0].dtype == torch.bfloat16 else np.uint32)
    return np.array(rows, dtype=np.int64), bits


def _select(table: np.ndarray, like: np.ndarray, count: int, live: np.ndarray, not_finite: np.ndarray):
    """Threshold and ties of one group. Fills in `live` and `not_finite` for its layers."""
    total = int(table[2].sum())
    parts = torch.get_num_threads() if total >= PARALLEL_FROM else 1
    left, prefix, shift = count, 0, 31
    for width in DIGITS if total >= FEW else DIGITS_OF_FEW:
        first, shift = shift == 31, shift - width
        counters = np.zeros((parts, 1 << width), np.int64)
        if first:
            seen = np.zeros((parts, 2, table.shape[1]), np.int64)
            split(_count_first, (table, like, BYTES, shift, counters, seen), parts, 2)
            live[:], not_finite[:] = seen.sum(0)
            if count < 0:
                raise ValueError(f"count is {count}: expected 0 or more")
            if count > live.sum():
                raise ValueError(f"count is {count}, but only {live.sum()} weights are live: expected no more")
            if count == 0:
                return -np.inf, 0
        else:
            split(_count_next, (table, like, BYTES, shift, width, prefix, counters), parts, 2)
        below = counters.sum(0).cumsum()
        digit = int(np.searchsorted(below, left))
        left -= int(below[digit - 1]) if digit else 0
        prefix = prefix << width | digit
    return np.uint32(prefix).view(np.float32), left


def _key(array, i):
    """The bits of |array[i]| as a float32, every NaN as NAN_KEY; uint16 holds bfloat16."""


@overload(_key, inline="always")
def _key_overload(array, i):
    if array.dtype == types.uint16:
        return lambda array, i: min(
            np.uint32(np.uint32(array[i] & np.uint16(0x7FFF)) << np.uint32(16)), np.uint32(NAN_KEY)
        )
    return lambda array, i: min(array[i] & np.uint32(0x7FFFFFFF), np.uint32(NAN_KEY))


# Indices into a slice start at 0, so LLVM knows that none is negative. Otherwise these loops are four times slower.


@compiled
def _count_first(table, like, like_mask, shift, counters, seen, first_part, last_part):
    """Counts parts first_part to last_part of the weights, with all layers seen as one sequence."""
    parts, total = len(counters), table[2].sum()
    infinite, down = 0x7F800000 >> shift, np.uint32(shift)
    for part in range(first_part, last_part):
        start, stop, before = total * part // parts, total * (part + 1) // parts, 0
        histogram = counters[part]
        for layer in range(table.shape[1]):
            low, high = max(start - before, 0), min(stop - before, table[2, layer])
            before += table[2, layer]
            if low >= high:
                continue
            weights = carray(pointer(table[0, layer], like), high)[low:]
            earlier, number = histogram[infinite:].sum(), weights.size
            if table[1, layer] != 0:
                live = carray(pointer(table[1, layer], like_mask), high)[low:]
                number = 0
                # Masked weights are all 0. Additions to a single counter would wait for one another, and a branch would
                # often be mispredicted, so masked weights add 0 to counters that take turns.
                for i in range(weights.size):
                    elsewhere, alive = np.uint32(i) & np.uint32(1023), np.uint32(0) - np.uint32(live[i])
                    histogram[(_key(weights, i) >> down) & alive | elsewhere & ~alive] += live[i]
                    number += live[i]
            else:
                for i in range(weights.size):
                    histogram[_key(weights, i) >> down] += 1
            seen[part, 0, layer] = number
            seen[part, 1, layer] = histogram[infinite:].sum() - earlier


@compiled
def _count_next(table, like, like_mask, shift, width, prefix, counters, first_part, last_part):
    """Counts the weights whose higher bits are `prefix`. They are mostly few, so it skips whole chunks."""
    parts, total = len(counters), table[2].sum()
    down, digit = np.uint32(shift), np.uint32((1 << width) - 1)
    for part in range(first_part, last_part):
        start, stop, before = total * part // parts, total * (part + 1) // parts, 0
        histogram = counters[part]
        for layer in range(table.shape[1]):
            low, high = max(start - before, 0), min(stop - before, table[2, layer])
            before += table[2, layer]
            masked = table[1, layer] != 0
            for chunk in range(low, high, CHUNK):
                end = min(chunk + CHUNK, high)
                weights = carray(pointer(table[0, layer], like), end)[chunk:]
                live = carray(pointer(table[1, layer], like_mask), end)[chunk:]
                if _any(weights, shift + width, prefix):
                    for i in range(weights.size):
                        key = _key(weights, i) >> down
                        if key >> np.uint32(width) == prefix and (not masked or live[i] != 0):
                            histogram[key & digit] += 1


@compiled
def _any(chunk, shift, prefix):
    """Whether a key of the chunk, shifted right by `shift`, is `prefix`. Always true if the chunk is not full."""
    found = np.uint32(chunk.size != CHUNK)
    if chunk.size == CHUNK:
        for i in range(CHUNK):
            found += np.uint32(_key(chunk, i) >> np.uint32(shift) == np.uint32(prefix))
    return found != 0


@compiled
def _keep(table, like, like_mask, lowest, start, stop):
    before, bound = 0, np.uint32(lowest)
    for layer in range(table.shape[1]):
        low, high = max(start - before, 0), min(stop - before, table[2, layer])
        before += table[2, layer]
        if low >= high:
            continue
        weights = carray(pointer(table[0, layer], like), high)[low:]
        out = carray(pointer(table[3, layer], like_mask), high)[low:]
        if table[1, layer] != 0:
            live = carray(pointer(table[1, layer], like_mask), high)[low:]
            for i in range(weights.size):
                out[i] = live[i] & np.uint8(_key(weights, i) >= bound)
        else:
            for i in range(weights.size):
                out[i] = np.uint8(_key(weights, i) >= bound)


@compiled
def _drop_first(table, like, like_mask, key, number):
    for layer in range(table.shape[1]):
        size = table[2, layer]
        for chunk in range(0, size, CHUNK):
            if number == 0:
                return
            end = min(chunk + CHUNK, size)
            weights = carray(pointer(table[0, layer], like), end)[chunk:]
            if _any(weights, 0, key):
                out = carray(pointer(table[3, layer], like_mask), end)[chunk:]
                for i in range(weights.size):
                    if number > 0 and out[i] != 0 and _key(weights, i) == key:
                        out[i] = 0
                        number -= 1
