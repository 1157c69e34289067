"""How masked_sgd's flat arenas lie in memory: parameters padded to whole blocks, the mask packed, blocks counted."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

PAD = 1024  # weights: 128 bytes of packed mask and one Triton program, so neither ever spans two parameters
SECTOR = 8  # weights: 32 bytes of float32, so that each block of live momentum starts where wide accesses may


class Layout:
    """Where the parameters of a launch stand in the arenas. An optimizer makes one and gives it to every step.

    sizes: weights of each parameter. offsets: where each starts, multiples of `PAD`. groups: its row of
        hyperparameters.
    tables: what a device's implementation made of it, kept from step to step.
    """

    def __init__(self, sizes: Sequence[int], offsets: Sequence[int], groups: Sequence[int]):
        self.sizes, self.weights = list(sizes), sum(sizes)
        ends = np.cumsum([blocks_in(size) for size in sizes], dtype=np.int64)
        self.blocks = int(ends[-1]) if len(ends) else 0
        first = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        self.rows = np.array([offsets, sizes, groups, first], dtype=np.int64)
        self.tables = None


def blocks_in(size: int) -> int:
    """Blocks that a parameter of so many weights takes."""
    return -(-size // PAD)


def padded_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parameters of these numbers of weights start in an arena, and the arena's length."""
    offsets, length = [], 0
    for size in sizes:
        offsets.append(length)
        length += blocks_in(size) * PAD
    return offsets, length


def pack_mask(live: Tensor) -> Tensor:
    """The `mask` argument for a flat bool tensor over an arena (length a multiple of 8): bytes on a CPU, else bits."""
    return live.to(torch.uint8) if live.device.type == "cpu" else pack_bits(live)


def pack_bits(live: Tensor) -> Tensor:
    """Eight weights a byte, the first in the lowest bit. live: bool [length]; returns uint8 [length / 8]."""
    weights = 1 << torch.arange(8, device=live.device, dtype=torch.uint8)
    return (live.view(-1, 8).to(torch.uint8) * weights).sum(1, dtype=torch.uint8)


def unpack_mask(mask: Tensor) -> Tensor:
    """The flat bool tensor that `pack_mask` was given, or that of a slice of whole blocks."""
    if mask.device.type == "cpu":
        return mask != 0
    return (mask[:, None] >> torch.arange(8, device=mask.device, dtype=torch.uint8) & 1).view(-1) != 0


def block_table(live: Tensor) -> tuple[Tensor, int]:
    """The `blocks` argument for a flat bool tensor over an arena, and the length of a momentum arena of live weights.

    int64 [length / PAD, 2]: the live weights of each block, and where their momentum starts, a multiple of `SECTOR`.
    The length has two sectors to spare: one that the last block may fill up, one because a CPU looks one place ahead.
    """
    counts = live.view(-1, PAD).sum(1)
    ends = torch.cumsum((counts + SECTOR - 1) // SECTOR * SECTOR, 0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]]) if len(ends) else ends
    return torch.stack([counts, starts], dim=1), (int(starts[-1] + counts[-1]) if len(ends) else 0) + 2 * SECTOR


def live_places(live: Tensor, blocks: Tensor) -> Tensor:
    """int64, one a live weight: where its momentum stands in an arena of live weights. blocks: its rows for `live`."""
    ranks = torch.cumsum(live.view(-1, PAD), 1) - 1
    return (ranks + blocks[:, 1:]).view(-1)[live]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one gapless stretch of memory, each exactly once, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lay their elements out alike; strides of dimensions of size 1 mean nothing."""
    return all(s == t for s, t, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1)


def first_overlap(tensors: Sequence[Tensor]) -> tuple[int, int] | None:
    """The positions of two dense tensors that share memory, if any do."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), i) for i, t in enumerate(tensors))
    spans = [span for span in spans if span[0] < span[1]]
    for (_, end, i), (start, _, j) in pairwise(spans):
        if start < end:
            return min(i, j), max(i, j)
    return None
