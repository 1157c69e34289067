"""The table of addresses for both implementations, and the check that no output shares memory with anything."""

import numpy as np
from torch import Tensor

OUT, FIRST, SECOND, THIRD, MASK, STRIDE, SIZE, KIND = range(8)  # the rows of a table
_READ = {FIRST: "tensor {} of end point 0", SECOND: "tensor {} of end point 1", THIRD: "tensor {} of end point 2"}
_READ[MASK] = "mask {}"


def table_of(
    out: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    third: list[Tensor],
    masks: list[Tensor | None],
    prunable: list[bool],
) -> np.ndarray:
    """int64 [8, tensors]: addresses, stride of the rows of `out`, weights, and which coefficients apply (1: projected).

    Without a third end, its row repeats the first end's addresses. 0 stands for no mask.
    Raises ValueError, naming both, if an output shares memory with another output or an input.
    """
    rows = [
        *([tensor.data_ptr() for tensor in tensors] for tensors in (out, first, second, third or first)),
        [0 if mask is None else mask.data_ptr() for mask in masks],
        [tensor.stride(0) for tensor in out],
        [tensor.numel() for tensor in first],
        [0 if flag else 1 for flag in prunable],
    ]
    table = np.array(rows, dtype=np.int64)
    if len(out) and len(out[0]):
        _check_apart(table, len(out[0]), first[0].itemsize)
    return table


def _check_apart(table: np.ndarray, points: int, itemsize: int) -> None:
    full = np.flatnonzero(table[SIZE])
    starts = table[OUT, full, None] + table[STRIDE, full, None] * itemsize * np.arange(points)
    order = np.argsort(starts, axis=None)
    owner = np.repeat(full, points)[order]
    starts = starts.ravel()[order]
    ends = starts + table[SIZE, owner] * itemsize
    for i in np.flatnonzero(starts[1:] < ends[:-1])[:1]:
        raise ValueError(f"out {owner[i]} and out {owner[i + 1]} share memory: give each memory of its own")
    for row, name in _READ.items():
        begin = table[row, full]
        # The last row of an output that begins before the tensor ends. Rows that begin earlier also end earlier.
        last = np.searchsorted(starts, begin + table[SIZE, full] * (1 if row == MASK else itemsize)) - 1
        for i in np.flatnonzero((last >= 0) & (ends[last] > begin) & (begin != 0))[:1]:
            raise ValueError(
                f"out {owner[last[i]]} and {name.format(full[i])} share memory: give out memory of its own"
            )
