"""interpolate on a GPU: one Triton launch for all tensors, one program for 1,024 weights and up to 32 of their rows.

The programs of one block of weights are neighbours, so with more than 32 rows they read the ends again from the
second-level cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .._tables import blocks_of, send
from .table import MASK, SIZE, table_of

BLOCK = 1024
POINTS = 32  # rows that a program writes, so that reading the ends adds at most a tenth


def interpolate(
    out: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    third: list[Tensor],
    coefficients: Tensor,
    masks: list[Tensor | None],
    prunable: list[bool],
) -> None:
    """The operator; only shared memory is checked. coefficients: float32 [2, K, 2], of prunable tensors, of others."""
    points = coefficients.shape[1]
    if not first or not points:
        return
    device, table = first[0].device, table_of(out, first, second, third, masks, prunable)
    blocks, chunks = blocks_of(device, table[SIZE].tolist(), BLOCK), triton.cdiv(points, POINTS)
    if not len(blocks):
        return
    with on_device_of(coefficients):
        interpolate_kernel[(len(blocks) * chunks,)](
            blocks,
            send(table.T, device),
            coefficients,
            points,
            chunks,
            PLANE=len(third) > 0,
            MASKED=bool(table[MASK].any()),
            ALIGNED=not (table[: MASK + 1] % 16).any(),
            BFLOAT16=first[0].dtype == torch.bfloat16,
            POINTS=min(POINTS, triton.next_power_of_2(points)),
            BLOCK=BLOCK,
            num_warps=4,
            enable_fp_fusion=True,
        )
    torch.autograd.graph.increment_version(out)


@triton.jit
def interpolate_kernel(
    blocks,  # int32 [blocks, 2]: tensor, block within it
    table,  # int64 [tensors, 8]: addresses of out, the three ends and the mask (0: none), row stride, size, kind
    coefficients,  # float32 [2, points, 2]
    points,
    chunks,
    PLANE: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    block, first_point = program // chunks, program % chunks * POINTS
    row = table + 8 * tl.load(blocks + 2 * block).to(tl.int64)
    start = tl.load(blocks + 2 * block + 1).to(tl.int64) * BLOCK
    left = tl.load(row + 6) - start
    stride = tl.load(row + 5)
    # A predicate for every weight would make every access 4 bytes wide; only a last, ragged block needs it. A row that
    # is no multiple of 16 bytes long starts the next one unaligned.
    if (left >= BLOCK) & (stride % 8 == 0):
        _rows(
            row,
            coefficients,
            start,
            left,
            stride,
            first_point,
            points,
            PLANE,
            MASKED,
            ALIGNED,
            BFLOAT16,
            False,
            POINTS,
            BLOCK,
        )
    else:
        _rows(
            row,
            coefficients,
            start,
            left,
            stride,
            first_point,
            points,
            PLANE,
            MASKED,
            False,
            BFLOAT16,
            True,
            POINTS,
            BLOCK,
        )


@triton.jit
def _rows(
    row,
    coefficients,
    start,
    left,
    stride,
    first_point,
    points,
    PLANE: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    RAGGED: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    kind: tl.constexpr = tl.bfloat16 if BFLOAT16 else tl.float32
    at = tl.arange(0, BLOCK)
    inside = at < left
    out = tl.load(row).to(tl.pointer_type(kind)) + start
    first = tl.load(row + 1).to(tl.pointer_type(kind)) + start
    second = tl.load(row + 2).to(tl.pointer_type(kind)) + start
    third = tl.load(row + 3).to(tl.pointer_type(kind)) + start
    if ALIGNED:  # said here and not in _read: of a function's argument the compiler forgets it
        first = tl.multiple_of(first, 16)
        second = tl.multiple_of(second, 16)
        third = tl.multiple_of(third, 16)
    a = _read(first, at, inside, RAGGED)
    b = _read(second, at, inside, RAGGED)
    if PLANE:
        c = _read(third, at, inside, RAGGED)
    if MASKED:
        address = tl.load(row + 4)
        mask = address.to(tl.pointer_type(tl.uint8)) + start
        if ALIGNED:
            mask = tl.multiple_of(mask, 16)
        if (not RAGGED) & (address != 0):
            live = tl.load(mask + at) != 0
        else:
            live = tl.load(mask + at, mask=at < tl.where(address != 0, left, 0), other=1) != 0
        a = tl.where(live, a, 0.0)
        b = tl.where(live, b, 0.0)
        if PLANE:
            c = tl.where(live, c, 0.0)
    own = coefficients + 2 * points * tl.load(row + 7)
    for i in range(POINTS):
        k = first_point + i
        if k < points:
            s = tl.load(own + 2 * k)
            t = tl.load(own + 2 * k + 1)
            r = 1.0 - s - t
            from_b = (s >= r) & (s >= t)
            # The differences are not kept: they would take half the registers. A factor of 0 leaves its term out, as
            # 0·NaN must not reach an end.
            base = tl.where(from_b, b, a)
            other = tl.where(from_b, a, b)
            x = tl.where(from_b, r, s)
            if PLANE:
                from_c = (t >= r) & (t > s)
                last = tl.where(from_c, b, c)
                other = tl.where(from_c, a, other)
                base = tl.where(from_c, c, base)
                x = tl.where(from_c, r, x)
                y = tl.where(from_c, s, t)
                value = tl.where(x != 0, base + x * (other - base), base)
                value = tl.where(y != 0, value + y * (last - base), value)
            else:
                value = tl.where(x != 0, base + x * (other - base), base)
            target = out + k * stride
            if ALIGNED:
                target = tl.multiple_of(target, 16)
            if RAGGED:
                tl.store(target + at, value.to(kind), mask=inside)
            else:
                tl.store(target + at, value.to(kind))


@triton.jit
def _read(source, at, inside, RAGGED: tl.constexpr):
    if RAGGED:
        return tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    else:
        return tl.load(source + at).to(tl.float32)
