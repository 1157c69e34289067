"""magnitude_threshold on a GPU: four histograms of 256 bins in Triton, each followed by a program that picks the bin.

The first digit is the exponent, so its last bin counts weights that are not finite. A digit has eight bits because a
warp's histogram takes work in proportion to its bins.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .._tables import aligned, blocks_of, send
from . import NAN_KEY

BLOCK = 4096  # weights that a program counts, so that its 256 atomic additions are few beside its loads
KEEP_BLOCK = 1024
DIGITS = (8, 8, 8, 7)
_NAN_KEY = tl.constexpr(NAN_KEY)


def threshold(
    weights: list[Tensor], masks: list[Tensor | None], count: Tensor, layerwise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator, unchecked."""
    device = count.device
    table, constants = _table(weights, masks, [])
    blocks = blocks_of(device, [weight.numel() for weight in weights], BLOCK)
    left, prefix = count.clone(), torch.zeros_like(count)
    shift = 31
    for width in DIGITS:
        first, shift = shift == 31, shift - width
        counters = torch.zeros(len(weights), 256, dtype=torch.int64, device=device)
        with on_device_of(count):
            if len(blocks):
                count_kernel[(len(blocks),)](
                    blocks,
                    table,
                    prefix,
                    counters,
                    SHIFT=shift,
                    WIDTH=width,
                    FIRST=first,
                    LAYERWISE=layerwise,
                    BLOCK=BLOCK,
                    num_warps=4,
                    **constants,
                )
            if first:
                live, not_finite = counters.sum(1), counters[:, 255].clone()
            counters = counters if layerwise else counters.sum(0, keepdim=True)
            select_kernel[(len(counters),)](counters, prefix, left, WIDTH=width, num_warps=4)
    value = prefix.to(torch.int32).view(torch.float32)
    enough = live if layerwise else live.sum(0, keepdim=True)
    value = torch.where(count == 0, float("-inf"), torch.where(count > enough, float("nan"), value))
    return value, left, live, not_finite


def keep(
    weights: list[Tensor], masks: list[Tensor | None], threshold: Tensor, ties: Tensor | None, layerwise: bool
) -> list[Tensor]:
    """The operator on contiguous tensors, unchecked."""
    device, sizes = threshold.device, [weight.numel() for weight in weights]
    out = [torch.empty_like(weight, dtype=torch.bool) for weight in weights]
    blocks = blocks_of(device, sizes, KEEP_BLOCK)
    if not len(blocks):
        return out
    counts = [-(-size // KEEP_BLOCK) for size in sizes]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])  # each layer's first program
    table, constants = _table(weights, masks, [[tensor.data_ptr() for tensor in out], starts])
    found = torch.zeros(len(blocks), dtype=torch.int64, device=device)
    constants.update(LAYERWISE=layerwise, BLOCK=KEEP_BLOCK, num_warps=4)
    before = found
    with on_device_of(threshold):
        if ties is not None:
            ties_kernel[(len(blocks),)](blocks, table, threshold, found, **constants)
            before = found.cumsum(0) - found
        keep_kernel[(len(blocks),)](
            blocks, table, threshold, ties if ties is not None else before, before, EXACT=ties is not None, **constants
        )
    return out


def _table(weights: list[Tensor], masks: list[Tensor | None], columns: list) -> tuple[Tensor, dict]:
    addresses = [weight.data_ptr() for weight in weights]
    live = [0 if mask is None else mask.data_ptr() for mask in masks]
    rows = [addresses, live, [weight.numel() for weight in weights], *columns]
    rows += [[0] * len(weights)] * (5 - len(rows))
    table = send(np.array(rows, dtype=np.int64).T, weights[0].device)
    return table, {
        "ALIGNED": aligned([*addresses, *live, *(columns[0] if columns else [])]),
        "MASKED": any(live),
        "BFLOAT16": weights[0].dtype == torch.bfloat16,
    }


@triton.jit
def _keys(blocks, table, ALIGNED: tl.constexpr, MASKED: tl.constexpr, BFLOAT16: tl.constexpr, BLOCK: tl.constexpr):
    """The layer's row of the table, the block's first weight, the keys as int32, and which of them are live."""
    program = tl.program_id(0)
    layer = tl.load(blocks + 2 * program)
    start = tl.load(blocks + 2 * program + 1).to(tl.int64) * BLOCK
    row = table + 5 * layer
    left = tl.load(row + 2) - start
    at = tl.arange(0, BLOCK)
    live = at < left
    kind: tl.constexpr = tl.int16 if BFLOAT16 else tl.int32
    weights = tl.load(row).to(tl.pointer_type(kind)) + start
    if ALIGNED:
        weights = tl.multiple_of(weights, 16)
    # A predicate for each weight would make every access 4 bytes wide. Only a ragged last block needs it.
    if left >= BLOCK:
        bits = tl.load(weights + at).to(tl.int32)
    else:
        bits = tl.load(weights + at, mask=live, other=0).to(tl.int32)
    if BFLOAT16:
        bits = bits << 16
    if MASKED:
        address = tl.load(row + 1)
        mask = address.to(tl.pointer_type(tl.uint8)) + start
        if ALIGNED:
            mask = tl.multiple_of(mask, 16)
        if (left >= BLOCK) & (address != 0):
            live = tl.load(mask + at) != 0
        else:
            live = live & (tl.load(mask + at, mask=at < tl.where(address != 0, left, 0), other=1) != 0)
    return row, layer, start, left, tl.minimum(bits & 0x7FFFFFFF, _NAN_KEY), live


@triton.jit
def count_kernel(
    blocks,  # int32 [programs, 2]: layer, block within it
    table,  # int64 [layers, 5]: addresses of weights and mask (0: none), number of weights; the rest is not read here
    prefix,  # int64 [groups]: the higher bits of the threshold
    counters,  # int64 [layers, 256]
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    LAYERWISE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _, layer, _, _, keys, wanted = _keys(blocks, table, ALIGNED, MASKED, BFLOAT16, BLOCK)
    keys = keys >> SHIFT
    if not FIRST:
        wanted = wanted & ((keys >> WIDTH) == tl.load(prefix + (layer if LAYERWISE else 0)).to(tl.int32))
    bins = tl.arange(0, 256)
    found = tl.histogram(keys & ((1 << WIDTH) - 1), 256, mask=wanted)
    tl.atomic_add(counters + layer * 256 + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit
def select_kernel(counters, prefix, left, WIDTH: tl.constexpr):
    """Appends the bin of the left-th smallest to the prefix, and subtracts from `left` the number below that bin."""
    group = tl.program_id(0)
    wanted = tl.load(left + group)
    found = tl.load(counters + group * 256 + tl.arange(0, 256))
    below = tl.cumsum(found, 0) < wanted
    digit = tl.minimum(tl.sum(below.to(tl.int64), 0), (1 << WIDTH) - 1)
    tl.store(left + group, wanted - tl.sum(tl.where(below, found, 0), 0))
    tl.store(prefix + group, (tl.load(prefix + group) << WIDTH) + digit)


@triton.jit
def _bound(threshold, layer, LAYERWISE: tl.constexpr):
    """The threshold as a key; for -infinity -1, which is below every key."""
    value = tl.load(threshold + (layer if LAYERWISE else 0))
    key = tl.minimum(value.to(tl.int32, bitcast=True) & 0x7FFFFFFF, _NAN_KEY)
    return tl.where(value < 0, -1, key)


@triton.jit
def ties_kernel(
    blocks,
    table,
    threshold,
    found,  # int64 [programs]
    LAYERWISE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _, layer, _, _, keys, live = _keys(blocks, table, ALIGNED, MASKED, BFLOAT16, BLOCK)
    equal = live & (keys == _bound(threshold, layer, LAYERWISE))
    tl.store(found + tl.program_id(0), tl.sum(equal.to(tl.int32), 0).to(tl.int64))


@triton.jit
def keep_kernel(
    blocks,
    table,  # as for count_kernel; then the address of the new mask and the layer's first program
    threshold,  # float32 [groups]
    ties,  # int64 [groups]: how many weights equal to the threshold are removed
    before,  # int64 [programs]: how many weights of earlier programs equal it
    EXACT: tl.constexpr,
    LAYERWISE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, layer, start, left, keys, live = _keys(blocks, table, ALIGNED, MASKED, BFLOAT16, BLOCK)
    bound = _bound(threshold, layer, LAYERWISE)
    kept = keys > bound
    if EXACT:
        equal = (live & (keys == bound)).to(tl.int32)
        earlier = tl.load(before + tl.program_id(0))
        if LAYERWISE:
            earlier -= tl.load(before + tl.load(row + 4))
        rank = earlier + tl.cumsum(equal, 0) - 1
        kept = kept | ((equal != 0) & (rank >= tl.load(ties + (layer if LAYERWISE else 0))))
    out = tl.load(row + 3).to(tl.pointer_type(tl.uint8)) + start
    if ALIGNED:
        out = tl.multiple_of(out, 16)
    at = tl.arange(0, BLOCK)
    if left >= BLOCK:
        tl.store(out + at, (kept & live).to(tl.uint8))
    else:
        tl.store(out + at, (kept & live).to(tl.uint8), mask=at < left)
