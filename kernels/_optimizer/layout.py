"""The layout of a masked optimizer's flat arenas: padded parameters, packed masks, tables of blocks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .cpu import Job

PAD = 1024  # weights: 128 bytes of packed mask and one Triton program, so that neither spans two parameters
SECTOR = 8  # weights: 32 bytes of float32, so that each block of live state starts aligned for wide accesses


class Layout:
    """The places of a launch's parameters in the arenas. An optimizer makes one and passes it to every step.

    sizes: weights of each parameter. offsets: where each parameter starts, multiples of `PAD`. groups: the row of
        hyperparameters of each parameter. shadowed: for each parameter whether it has a bfloat16 copy, see
        `Options.shadow`; None: no parameter has one.
    tables, job: data that the GPU and the CPU implementation derive from the layout and keep between steps.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        offsets: Sequence[int],
        groups: Sequence[int],
        shadowed: Sequence[bool] | None = None,
    ):
        self.sizes, self.weights = list(sizes), sum(sizes)
        ends = np.cumsum([blocks_in(size) for size in sizes], dtype=np.int64)
        self.blocks = int(ends[-1]) if len(ends) else 0
        first = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        self.rows = np.array([offsets, sizes, groups, shadowed or [False] * len(groups), first], dtype=np.int64)
        self.tables: tuple[Tensor, Tensor] | None = None
        self.job: Job | None = None


def blocks_in(size: int) -> int:
    """Number of blocks that a parameter of `size` weights takes."""
    return -(-size // PAD)


def padded_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """The offset in an arena of each parameter, given its number of weights; and the arena's length."""
    offsets, length = [], 0
    for size in sizes:
        offsets.append(length)
        length += blocks_in(size) * PAD
    return offsets, length


def pack_mask(live: Tensor) -> Tensor:
    """The `mask` argument from a flat bool tensor over an arena (length a multiple of 8): bytes on a CPU, else bits."""
    return live.to(torch.uint8) if live.device.type == "cpu" else pack_bits(live)


def pack_bits(live: Tensor) -> Tensor:
    """Eight weights a byte, the first in the lowest bit. live: bool [length]; returns uint8 [length / 8]."""
    weights = 1 << torch.arange(8, device=live.device, dtype=torch.uint8)
    return (live.view(-1, 8).to(torch.uint8) * weights).sum(1, dtype=torch.uint8)


def unpack_mask(mask: Tensor) -> Tensor:
    """The inverse of `pack_mask`. Also takes a slice of whole blocks."""
    if mask.device.type == "cpu":
        return mask != 0
    return (mask[:, None] >> torch.arange(8, device=mask.device, dtype=torch.uint8) & 1).view(-1) != 0


def block_table(live: Tensor) -> tuple[Tensor, int]:
    """The `blocks` argument from a flat bool tensor over an arena, and the length of an arena for live state.

    blocks: int64 [length / PAD, 2]: each block's number of live weights, and where their state starts, a multiple of
    `SECTOR`. The length is a multiple of 16, so that a GPU moves every buffer 16 bytes at a time.
    """
    counts = live.view(-1, PAD).sum(1)
    ends = torch.cumsum((counts + SECTOR - 1) // SECTOR * SECTOR, 0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]]) if len(ends) else ends
    needed = int(starts[-1] + counts[-1]) if len(ends) else 0
    return torch.stack([counts, starts], dim=1), (needed // 16 + 1) * 16


def live_places(live: Tensor, blocks: Tensor) -> Tensor:
    """int64: for each live weight, the place of its state in an arena for live state. blocks: the rows for `live`."""
    ranks = torch.cumsum(live.view(-1, PAD), 1) - 1
    return (ranks + blocks[:, 1:]).view(-1)[live]
