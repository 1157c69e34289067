"""masked_sgd on a GPU: one Triton launch for every parameter of a network, a program for 1,024 weights.

Addresses of parameters and gradients come from a table, so nothing has to be moved into an arena; the table is sent
again only when an address was not seen lately (an eager backward pass gives gradients new ones, from a small set).
"""

from collections import OrderedDict

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from . import PAD

_RECENT = 64  # pointer tables kept: the allocator hands out few distinct sets of gradient addresses
_pointer_tables: OrderedDict[tuple, Tensor] = OrderedDict()
_layouts: dict[tuple, tuple[Tensor, Tensor]] = {}
_captured: list[Tensor] = []  # a graph copies its tables anew at each replay, from host memory that must outlive it


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    offsets: list[int],
    groups: list[int],
    first_step: bool,
    rewrite: bool,
) -> None:
    """The operator, unchecked. mask: a bit a weight, whatever the device (in Triton's interpreter: CPU tensors)."""
    if not parameters:
        return
    device = momentum.device
    sizes = [p.numel() for p in parameters]
    pointers = [p.data_ptr() for p in parameters] + [g.data_ptr() for g in gradients]
    table, blocks = _layout(device, sizes, offsets, groups)
    with on_device_of(momentum):
        masked_sgd_kernel[(blocks.shape[0],)](
            blocks,
            _pointer_table(device, pointers),
            table,
            hyperparameters,
            momentum,
            mask,
            len(parameters),
            int(rewrite),
            FIRST_STEP=first_step,
            ALIGNED=all(pointer % 16 == 0 for pointer in pointers),
            BFLOAT16=parameters[0].dtype == torch.bfloat16,
            BLOCK=PAD,
            num_warps=4,
            enable_fp_fusion=True,
        )


@triton.jit
def masked_sgd_kernel(
    blocks,  # int32 [programs, 2]: parameter, block within it
    pointers,  # int64 [2 * parameters]: addresses of the parameters, then of the gradients
    table,  # int64 [parameters, 3]: offset in the arenas, number of weights, group
    hyperparameters,  # [groups, 7]
    momentum,  # float32 arena
    mask,  # uint8 arena, a bit a weight
    parameters,
    rewrite,
    FIRST_STEP: tl.constexpr,
    ALIGNED: tl.constexpr,
    BFLOAT16: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    parameter = tl.load(blocks + 2 * program)
    start = tl.load(blocks + 2 * program + 1).to(tl.int64) * BLOCK
    kind: tl.constexpr = tl.bfloat16 if BFLOAT16 else tl.float32
    weights = tl.load(pointers + parameter).to(tl.pointer_type(kind)) + start
    gradients = tl.load(pointers + parameters + parameter).to(tl.pointer_type(kind)) + start
    if ALIGNED:
        weights = tl.multiple_of(weights, 16)
        gradients = tl.multiple_of(gradients, 16)
    offset = tl.load(table + 3 * parameter) + start
    left = tl.load(table + 3 * parameter + 1) - start
    row = hyperparameters + 7 * tl.load(table + 3 * parameter + 2)
    buffers = momentum + tl.multiple_of(offset, 1024)
    bits = mask + tl.multiple_of(offset // 8, 128)
    # A predicate for every weight would make every access 4 bytes wide; one for eight keeps 16. Only a last, ragged
    # block needs the former.
    if left >= BLOCK:
        _update(weights, gradients, buffers, bits, row, left, rewrite, FIRST_STEP, False, BLOCK)
    else:
        _update(weights, gradients, buffers, bits, row, left, rewrite, FIRST_STEP, True, BLOCK)


@triton.jit
def _update(
    weights,
    gradients,
    buffers,
    bits,
    row,
    left,
    rewrite,
    FIRST_STEP: tl.constexpr,
    RAGGED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lr = tl.load(row).to(tl.float32)
    mu = tl.load(row + 1).to(tl.float32)
    keep = tl.load(row + 2).to(tl.float32)
    decay = tl.load(row + 3).to(tl.float32)
    shrink = tl.load(row + 4).to(tl.float32)
    sign = tl.load(row + 5).to(tl.float32)
    nesterov = tl.load(row + 6) != 0
    sector = tl.arange(0, BLOCK // 8)[:, None]
    lane = tl.arange(0, 8)[None, :]
    byte = tl.load(bits + sector).to(tl.int32)
    live = ((byte >> lane) & 1) != 0
    at = sector * 8 + lane
    read = tl.broadcast_to(byte != 0, (BLOCK // 8, 8))
    written = tl.broadcast_to((byte | rewrite) != 0, (BLOCK // 8, 8))
    remembered = tl.broadcast_to(tl.where(mu != 0, byte, 0) != 0, (BLOCK // 8, 8))
    stored = tl.broadcast_to(tl.where(mu != 0, byte | rewrite, 0) != 0, (BLOCK // 8, 8))
    if RAGGED:
        inside = at < left
        read = read & inside
        written_weights = written & inside
    else:
        written_weights = written
    weight = tl.load(weights + at, mask=read, other=0.0).to(tl.float32)
    direction = tl.load(gradients + at, mask=read, other=0.0).to(tl.float32) * sign
    direction = tl.where(decay != 0, direction + decay * weight, direction)
    buffer = direction
    if not FIRST_STEP:
        buffer = mu * tl.load(buffers + at, mask=remembered, other=0.0) + keep * direction
    step = tl.where(mu != 0, tl.where(nesterov, direction + mu * buffer, buffer), direction)
    weight = tl.where(live, shrink * weight - lr * step, 0.0)
    tl.store(buffers + at, tl.where(live, buffer, 0.0), mask=stored)
    tl.store(weights + at, weight.to(weights.dtype.element_ty), mask=written_weights)


def _layout(device: torch.device, sizes: list[int], offsets: list[int], groups: list[int]) -> tuple[Tensor, Tensor]:
    key = (device, *sizes, *offsets, *groups)
    found = _layouts.get(key)
    if found is None:
        table = np.array([offsets, sizes, groups]).T
        counts = [-(-size // PAD) for size in sizes]
        within = [np.arange(count) for count in counts]
        blocks = np.stack([np.repeat(np.arange(len(sizes)), counts), np.concatenate(within)], axis=1).astype(np.int32)
        found = _send(table, device), _send(blocks, device)
        if not _capturing(device):
            _layouts[key] = found
    return found


def _pointer_table(device: torch.device, pointers: list[int]) -> Tensor:
    if _capturing(device):
        return _send(np.array(pointers), device)
    # The stream belongs to the key because the copy is ordered before the kernel on its own stream only.
    key = (torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0, *pointers)
    found = _pointer_tables.get(key)
    if found is None:
        found = _pointer_tables[key] = _send(np.array(pointers), device)
        if len(_pointer_tables) > _RECENT:
            _pointer_tables.popitem(last=False)
    else:
        _pointer_tables.move_to_end(key)
    return found


def _send(array: np.ndarray, device: torch.device) -> Tensor:
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return host
    host = host.pin_memory()
    if _capturing(device):
        _captured.append(host)
    return host.to(device, non_blocking=True)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
