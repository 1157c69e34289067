"""The memory order of tensors: whether they are dense, alike, or overlap."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same memory order. Strides of dimensions of size 1 are ignored."""
    return all(s == t for s, t, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1)


def first_overlap(tensors: Sequence[Tensor]) -> tuple[int, int] | None:
    """The positions of two dense tensors that share memory, or None."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), i) for i, t in enumerate(tensors))
    spans = [span for span in spans if span[0] < span[1]]
    for (_, end, i), (start, _, j) in pairwise(spans):
        if start < end:
            return min(i, j), max(i, j)
    return None
