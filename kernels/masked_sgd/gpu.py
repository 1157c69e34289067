"""masked_sgd on a GPU: one Triton launch for every parameter of all networks, a program for 1,024 weights.

Addresses of parameters and gradients come from a table, so nothing has to be moved into an arena; the table is sent
again only when an address was not seen lately (an eager backward pass gives gradients new ones, from a small set).
Multiplications and additions are fused where `tl.fma` says so and nowhere else: the compiler would choose differently
for dense and for live momentum, whose results are the same to the bit.
"""

from collections import OrderedDict

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .._tables import blocks_of, capturing, send
from .layout import PAD, SECTOR, Layout

# Eight weights a thread; with live momentum four, as each then needs an address of its own: eight take 94 registers.
WARPS, WARPS_LIVE = 4, 8
_RECENT = 64  # pointer tables kept: the allocator hands out few distinct sets of gradient addresses
_pointer_tables: OrderedDict[tuple, Tensor] = OrderedDict()


def step(
    layout: Layout,
    dtype: torch.dtype,
    addresses: np.ndarray,
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    first_step: bool,
    rewrite: bool,
    blocks: Tensor | None,
    live_momentum: bool,
    begun: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """One step, unchecked. addresses: of parameters of that dtype, then of gradients (0: leave alone).

    mask: a bit a weight, whatever the device (in Triton's interpreter: CPU memory).
    """
    if not layout.blocks:
        return
    device = momentum.device
    table, programs = _tables(layout, device)
    with on_device_of(momentum):
        masked_sgd_kernel[(layout.blocks,)](
            programs,
            _pointer_table(device, addresses),
            table,
            hyperparameters,
            momentum,
            mask,
            blocks if live_momentum else None,
            begun,
            grad_scale,
            found_inf,
            len(layout.sizes),
            int(rewrite),
            FIRST_STEP=first_step,
            ALIGNED=not (addresses % 16).any(),
            BFLOAT16=dtype == torch.bfloat16,
            BLOCK=PAD,
            SECTOR=SECTOR,
            num_warps=WARPS_LIVE if live_momentum else WARPS,
            enable_fp_fusion=False,
        )


@triton.jit
def masked_sgd_kernel(
    programs,  # int32 [programs, 2]: parameter, block within it
    pointers,  # int64 [2 * parameters]: addresses of the parameters, then of the gradients (0: leave it alone)
    table,  # int64 [3, parameters]: offset in the arenas, number of weights, group
    hyperparameters,  # [groups, 7]
    momentum,  # float32 arena
    mask,  # uint8 arena, a bit a weight
    blocks,  # int64 [length / 1,024, 2]: live weights of a block, where their momentum starts. None: dense momentum
    begun,  # uint8 [length / 1,024] or None
    grad_scale,  # one float or None
    found_inf,  # one float or None
    parameters,
    rewrite,
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
    row = hyperparameters + 7 * tl.load(table + 2 * parameters + parameter)
    bits = mask + tl.multiple_of(offset // 8, 128)
    block = offset // BLOCK
    go = address != 0
    if found_inf is not None:
        go = go & (tl.load(found_inf) == 0)
    fresh = (address == 0) | (address != 0 if FIRST_STEP else address == 0)  # a tensor in any case
    if begun is not None:
        begun += block
        fresh = fresh | (tl.load(begun) == 0)
        tl.debug_barrier()  # one thread writes below what every warp has read here
        tl.store(begun, 1, mask=go & (tl.load(row + 1) != 0))
    sign = tl.load(row + 5).to(tl.float32)
    if grad_scale is not None:
        sign = sign / tl.load(grad_scale).to(tl.float32)
    # A predicate for every weight would make every access 4 bytes wide; one for eight keeps 16. Only a last, ragged
    # block needs the former, and live momentum of a block that is masked in part.
    if go:
        if blocks is None:
            buffers = momentum + tl.multiple_of(offset, BLOCK)
            if left >= BLOCK:
                _update(weights, gradients, buffers, bits, row, sign, fresh, left, rewrite, False, False, BLOCK, SECTOR)
            else:
                _update(weights, gradients, buffers, bits, row, sign, fresh, left, rewrite, False, True, BLOCK, SECTOR)
        else:
            live = tl.load(blocks + 2 * block)
            buffers = momentum + tl.multiple_of(tl.load(blocks + 2 * block + 1), SECTOR)
            if live == BLOCK:
                _update(weights, gradients, buffers, bits, row, sign, fresh, left, rewrite, False, False, BLOCK, SECTOR)
            elif left >= BLOCK:
                _update(weights, gradients, buffers, bits, row, sign, fresh, left, rewrite, True, False, BLOCK, SECTOR)
            else:
                _update(weights, gradients, buffers, bits, row, sign, fresh, left, rewrite, True, True, BLOCK, SECTOR)


@triton.jit
def _update(
    weights,
    gradients,
    buffers,
    bits,
    row,
    sign,
    fresh,
    left,
    rewrite,
    COMPACT: tl.constexpr,  # momentum of live weights only, one after the other
    RAGGED: tl.constexpr,
    BLOCK: tl.constexpr,
    SECTOR: tl.constexpr,
):
    lr = tl.load(row).to(tl.float32)
    mu = tl.load(row + 1).to(tl.float32)
    keep = tl.load(row + 2).to(tl.float32)
    decay = tl.load(row + 3).to(tl.float32)
    shrink = tl.load(row + 4).to(tl.float32)
    nesterov = tl.load(row + 6) != 0
    sector = tl.arange(0, BLOCK // SECTOR)[:, None]
    lane = tl.arange(0, SECTOR)[None, :]
    byte = tl.load(bits + sector).to(tl.int32)
    live = ((byte >> lane) & 1) != 0
    at = sector * SECTOR + lane
    read = tl.broadcast_to(byte != 0, (BLOCK // SECTOR, SECTOR))
    written = tl.broadcast_to((byte | rewrite) != 0, (BLOCK // SECTOR, SECTOR))
    kept = tl.where(mu != 0, byte, 0)
    recalled = tl.where(fresh, 0, kept)
    if COMPACT:
        counts = _ones(byte)
        before = tl.cumsum(counts, 0) - counts
        place = before + _ones(byte & ((1 << lane) - 1))
        remembered = ((recalled >> lane) & 1) != 0
        stored = ((kept >> lane) & 1) != 0
    else:
        place = at
        remembered = tl.broadcast_to(recalled != 0, (BLOCK // SECTOR, SECTOR))
        stored = tl.broadcast_to(tl.where(mu != 0, byte | rewrite, 0) != 0, (BLOCK // SECTOR, SECTOR))
    if RAGGED:
        inside = at < left
        read = read & inside
        written_weights = written & inside
    else:
        written_weights = written
    weight = tl.load(weights + at, mask=read, other=0.0).to(tl.float32)
    direction = tl.load(gradients + at, mask=read, other=0.0).to(tl.float32) * sign
    direction = tl.where(decay != 0, tl.fma(tl.zeros_like(weight) + decay, weight, direction), direction)
    old = tl.load(buffers + place, mask=remembered, other=0.0)
    buffer = tl.where(fresh, direction, tl.fma(tl.zeros_like(old) + mu, old, keep * direction))
    ahead = tl.fma(tl.zeros_like(buffer) + mu, buffer, direction)
    step = tl.where(mu != 0, tl.where(nesterov, ahead, buffer), direction)
    weight = tl.where(live, tl.fma(tl.zeros_like(step) - lr, step, shrink * weight), 0.0)
    tl.store(buffers + place, tl.where(live, buffer, 0.0), mask=stored)
    tl.store(weights + at, weight.to(weights.dtype.element_ty), mask=written_weights)


@triton.jit
def _ones(byte):
    """Number of bits set in the lowest eight."""
    pairs = byte - ((byte >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return (fours + (fours >> 4)) & 0x0F


def _tables(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    if layout.tables is not None:
        return layout.tables
    found = send(layout.rows[:3], device), blocks_of(device, layout.sizes, PAD)
    if not capturing(device):
        layout.tables = found
    return found


def _pointer_table(device: torch.device, addresses: np.ndarray) -> Tensor:
    if capturing(device):
        return send(addresses.copy(), device)
    # The stream belongs to the key because the copy is ordered before the kernel on its own stream only.
    key = (torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0, addresses.tobytes())
    found = _pointer_tables.get(key)
    if found is None:
        found = _pointer_tables[key] = send(addresses.copy(), device)
        if len(_pointer_tables) > _RECENT:
            _pointer_tables.popitem(last=False)
    else:
        _pointer_tables.move_to_end(key)
    return found
