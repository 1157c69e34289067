"""A masked optimizer's step on a GPU: one Triton launch for all networks, one program for 1,024 weights.

A table holds the addresses of parameters and gradients, so nothing is copied into an arena. The table is sent again
only when the addresses are new (an eager backward pass draws those of gradients from a small set). Multiplications and
additions are fused only where a rule says `tl.fma`. The compiler would fuse dense and live state differently, and their
results must agree to the bit.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .._tables import blocks_of, capturing, finish, send
from .arguments import Launch
from .layout import PAD, SECTOR, Layout

if TYPE_CHECKING:
    from . import Operation


def step(operation: "Operation", launch: Launch) -> None:
    """One step. The mask has one bit for each weight, also in the CPU memory of Triton's interpreter."""
    layout, device = launch.layout, launch.state.device
    if not layout.blocks:
        return
    compiled_for = constants(operation)
    table, programs = _tables(layout, device)
    with on_device_of(launch.state):
        masked_kernel[(layout.blocks,)](
            programs,
            _pointer_table(device, launch.addresses),
            table,
            launch.hyperparameters,
            launch.state,
            launch.mask,
            launch.blocks if launch.live_state else None,
            launch.steps,
            launch.grad_scale,
            launch.found_inf,
            launch.shadow,
            len(layout.sizes),
            launch.state.shape[1],
            int(launch.rewrite),
            **compiled_for,
            FIRST_STEP=launch.first_step,
            ALIGNED=not (launch.addresses % 16).any(),
            BFLOAT16=launch.dtype == torch.bfloat16,
            num_warps=warps(operation, launch.live_state),
            enable_fp_fusion=False,
        )


def constants(operation: "Operation") -> dict:
    """The kernel's compile-time constants for an optimizer."""
    if operation.gpu_rule is None:
        raise NotImplementedError(f"{operation.name} has no rule for a GPU: move the model to the CPU, or write one")
    names = operation.columns._fields
    return {
        "RULE": operation.gpu_rule(),
        "BUFFERS": operation.buffers,
        "COLUMNS": len(names),
        "SIGN": names.index("sign"),
        "KEPT_BY": names.index(operation.kept_by) if operation.kept_by else -1,
        "BLOCK": PAD,
        "SECTOR": SECTOR,
    }


def warps(operation: "Operation", live_state: bool) -> int:
    """Eight weights a thread; four with live state, where each needs its own address, or with two buffers or more.

    Eight would take 94 registers then.
    """
    return 8 if live_state or operation.buffers > 1 else 4


@triton.jit
def masked_kernel(
    programs,  # int32 [programs, 2]: a parameter, and a block within it
    pointers,  # int64 [2 * parameters]: addresses of the parameters, then of the gradients (0: leave it alone)
    table,  # int64 [4, parameters]: offset in the arenas, number of weights, group, whether its gradient is bfloat16
    hyperparameters,  # [groups, COLUMNS]
    state,  # float32 [BUFFERS, stride]
    mask,  # uint8 arena, a bit a weight
    blocks,  # int64 [length / 1,024, 2]: live weights of a block, where their state starts. None: dense state
    steps,  # int32 [length / 1,024] or None
    grad_scale,  # one float or None
    found_inf,  # one float or None
    shadow,  # bfloat16 arena or None
    parameters,
    stride,
    rewrite,
    RULE: tl.constexpr,  # (weight, gradient, state, step, h) → weight, state; state and h are tuples
    BUFFERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGN: tl.constexpr,
    KEPT_BY: tl.constexpr,  # the column that is 0 for a group without state, or -1
    FIRST_STEP: tl.constexpr,
    ALIGNED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    BLOCK: tl.constexpr,
    SECTOR: tl.constexpr,
):
    program = tl.program_id(0)
    parameter = tl.load(programs + 2 * program)
    start = tl.load(programs + 2 * program + 1).to(tl.int64) * BLOCK
    kind: tl.constexpr = tl.bfloat16 if BFLOAT16 else tl.float32
    address = tl.load(pointers + parameters + parameter)
    weights = tl.load(pointers + parameter).to(tl.pointer_type(kind)) + start
    gradients = address.to(tl.pointer_type(kind)) + start
    if ALIGNED:
        weights = tl.multiple_of(weights, 16)
        gradients = tl.multiple_of(gradients, 16)
    offset = tl.load(table + parameter) + start
    left = tl.load(table + parameters + parameter) - start
    row = hyperparameters + COLUMNS * tl.load(table + 2 * parameters + parameter)
    bits = mask + tl.multiple_of(offset // 8, 128)
    block = offset // BLOCK
    go = address != 0
    if found_inf is not None:
        go = go & (tl.load(found_inf) == 0)
    keeps = _keeps(row, BUFFERS, KEPT_BY)
    step = tl.full((), 1 if FIRST_STEP else 2, tl.int32)
    if steps is not None:
        steps += block
        step = tl.load(steps) + 1
        tl.debug_barrier()  # one thread writes below what every warp has read here
        tl.store(steps, step, mask=go & keeps)
        if FIRST_STEP:
            step = tl.full((), 1, tl.int32)
    step = tl.where(keeps, step, 1)
    sign = tl.load(row + SIGN).to(tl.float32)
    if grad_scale is not None:
        sign = sign / tl.load(grad_scale).to(tl.float32)  # approximate; a rounded division spills registers on sm_100
    if go:
        live = None
        if blocks is None:
            own = state + tl.multiple_of(offset, BLOCK)
        else:
            own = state + tl.multiple_of(tl.load(blocks + 2 * block + 1), SECTOR)
            live = tl.load(blocks + 2 * block)
        given = (weights, own, stride, bits, row, sign, step, left, rewrite)
        if shadow is None:
            _update_block(given, gradients, None, live, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR)
        elif tl.load(table + 3 * parameters + parameter) != 0:
            narrow = address.to(tl.pointer_type(tl.bfloat16)) + start
            if ALIGNED:
                narrow = tl.multiple_of(narrow, 16)
            copy = shadow + tl.multiple_of(offset, BLOCK)
            _update_block(given, narrow, copy, live, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR)
        else:
            _update_block(given, gradients, None, live, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR)


@triton.jit
def _update_block(
    given,
    gradients,
    copy,  # of the weights in bfloat16; None: there is none
    live,  # the number of live weights; None: dense state
    RULE: tl.constexpr,
    BUFFERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEPT_BY: tl.constexpr,
    BLOCK: tl.constexpr,
    SECTOR: tl.constexpr,
):
    """A predicate for each weight would make every access 4 bytes wide; one for eight weights keeps 16.

    Only ragged last blocks, and live state of partly masked blocks, need one for each weight.
    """
    left = given[7]
    if live is None:
        if left >= BLOCK:
            _update(given, gradients, copy, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR, COMPACT=False, RAGGED=False)
        else:
            _update(given, gradients, copy, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR, COMPACT=False, RAGGED=True)
    elif live == BLOCK:
        _update(given, gradients, copy, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR, COMPACT=False, RAGGED=False)
    elif left >= BLOCK:
        _update(given, gradients, copy, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR, COMPACT=True, RAGGED=False)
    else:
        _update(given, gradients, copy, RULE, BUFFERS, COLUMNS, KEPT_BY, BLOCK, SECTOR, COMPACT=True, RAGGED=True)


@triton.jit
def _keeps(row, BUFFERS: tl.constexpr, KEPT_BY: tl.constexpr):
    """Whether the group of this row has state."""
    if BUFFERS == 0 or KEPT_BY < 0:
        return tl.full((), BUFFERS > 0, tl.int1)
    return tl.load(row + KEPT_BY) != 0


@triton.jit
def _update(
    given,
    gradients,
    copy,
    RULE: tl.constexpr,
    BUFFERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEPT_BY: tl.constexpr,
    BLOCK: tl.constexpr,
    SECTOR: tl.constexpr,
    COMPACT: tl.constexpr,  # the state of live weights only, without gaps
    RAGGED: tl.constexpr,
):
    weights, state, stride, bits, row, sign, step, left, rewrite = given
    h = ()
    for c in tl.static_range(COLUMNS):
        h = h + (tl.load(row + c).to(tl.float32),)  # type: ignore[assignment]  # Triton's tuples may grow
    keeps = _keeps(row, BUFFERS, KEPT_BY)
    sector = tl.arange(0, BLOCK // SECTOR)[:, None]
    lane = tl.arange(0, SECTOR)[None, :]
    byte = tl.load(bits + sector).to(tl.int32)
    live = ((byte >> lane) & 1) != 0
    at = sector * SECTOR + lane
    read = tl.broadcast_to(byte != 0, (BLOCK // SECTOR, SECTOR))
    written = tl.broadcast_to((byte | rewrite) != 0, (BLOCK // SECTOR, SECTOR))
    kept = tl.where(keeps, byte, 0)
    recalled = tl.where(step == 1, 0, kept)
    if COMPACT:
        counts = _ones(byte)
        before = tl.cumsum(counts, 0) - counts
        place = before + _ones(byte & ((1 << lane) - 1))
        remembered = ((recalled >> lane) & 1) != 0
        stored = ((kept >> lane) & 1) != 0
    else:
        place = at
        remembered = tl.broadcast_to(recalled != 0, (BLOCK // SECTOR, SECTOR))
        stored = tl.broadcast_to(tl.where(keeps, byte | rewrite, 0) != 0, (BLOCK // SECTOR, SECTOR))
    if RAGGED:
        inside = at < left
        read = read & inside
        written = written & inside
    weight = tl.load(weights + at, mask=read, other=0.0).to(tl.float32)
    gradient = tl.load(gradients + at, mask=read, other=0.0).to(tl.float32) * sign
    old = ()
    for k in tl.static_range(BUFFERS):
        buffer = tl.load(state + k * stride.to(tl.int64) + place, mask=remembered, other=0.0)
        old = old + (buffer,)  # type: ignore[assignment]  # Triton's tuples may grow
    weight, new = RULE(weight, gradient, old, step, h)
    for k in tl.static_range(BUFFERS):
        tl.store(state + k * stride.to(tl.int64) + place, tl.where(live, new[k], 0.0), mask=stored)
    weight = tl.where(live, weight, 0.0)
    tl.store(weights + at, weight.to(weights.dtype.element_ty), mask=written)
    if copy is not None:
        tl.store(copy + at, weight.to(tl.bfloat16), mask=written)


@triton.jit
def _ones(byte):
    """Number of bits set in the lowest eight."""
    pairs = byte - ((byte >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return (fours + (fours >> 4)) & 0x0F


def _tables(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    if layout.tables is not None:
        return layout.tables
    found = send(layout.rows[:4], device), blocks_of(device, layout.sizes, PAD)
    if not capturing(device):
        finish(device)
        layout.tables = found
    return found


def _pointer_table(device: torch.device, addresses: np.ndarray) -> Tensor:
    if capturing(device):
        return send(addresses.copy(), device)
    # The stream is part of the key: the copy comes before the kernel only on its own stream.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _sent(device, stream, addresses.tobytes())


@lru_cache(maxsize=64)  # the allocator hands out few distinct sets of gradient addresses
def _sent(device: torch.device, stream: int, addresses: bytes) -> Tensor:
    return send(np.frombuffer(addresses, np.int64).copy(), device)
