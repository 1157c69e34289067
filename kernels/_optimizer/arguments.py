"""The arguments of a masked optimizer's step, the same for every optimizer and device, and their check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._order import first_overlap, is_dense, same_order
from .layout import PAD, Layout

if TYPE_CHECKING:
    from . import Operation


@dataclass(slots=True, kw_only=True)
class Options:
    """Optional arguments of a step.

    first_step: the parameters have no state yet; the rule sees step 1 and state 0.
    rewrite: False promises that masked weights are already 0, so their memory need not be written.
    blocks: int64 [length / PAD, 2], from `block_table`. It spares a CPU the mask of blocks that are all live or all
        masked.
    live_state: state is stored for live weights only, at the places in `blocks`. Results are the same to the bit.
    steps: int32 [length / PAD], the steps that each block has made with state; every step that is not skipped adds one.
        With it, the host need not know which steps were skipped. Without it, the rule sees step 2 after the first.
    grad_scale: one float that divides the gradients; their memory is not changed.
    found_inf: one float; unless it is 0, nothing is changed. A GPU reads both without waiting for the host.
    shadow: bfloat16 [length], an arena for copies of float32 weights. The new weights of a parameter whose gradient is
        bfloat16 are written there, too, rounded to nearest, ties to even. Without `rewrite`, masked places must be 0.
    """

    first_step: bool = False
    rewrite: bool = True
    blocks: Tensor | None = None
    live_state: bool = False
    steps: Tensor | None = None
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    shadow: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class Launch(Options):
    """All arguments of a step, as the implementations take them, unchecked.

    layout: where the parameters stand in the arenas.
    dtype: of parameters and gradients: float32, bfloat16; float64 on a CPU. With `shadow`, gradients of the parameters
        that `layout.shadowed` names are bfloat16.
    addresses: int64, of the parameters, then of the gradients. A parameter whose gradient has address 0 is left alone.
    state: [buffers, length], float32 (float64 for float64 parameters). With `live_state` its length is the one from
        `block_table`.
    mask: uint8, from `pack_mask`: [length] on a CPU, a byte a weight; [length / 8] on a GPU, a bit a weight.
    hyperparameters: [groups, columns], floating point, on the parameters' device. A GPU reads it in the kernel, so a
        schedule may rewrite it under a captured graph.
    """

    layout: Layout
    dtype: torch.dtype
    addresses: np.ndarray
    state: Tensor
    mask: Tensor
    hyperparameters: Tensor


def check(
    operation: "Operation",
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    offsets: Sequence[int],
    groups: Sequence[int],
    options: Options,
) -> None:
    """Raises ValueError or TypeError, naming the parameter's position, if the arguments do not fit together.

    state: [buffers, length]; of a single buffer also [length].
    """
    name_of_state, buffers, columns = operation.name_of_state, operation.buffers, len(operation.columns._fields)
    if not len(parameters) == len(gradients) == len(offsets) == len(groups):
        raise ValueError(
            f"{len(parameters)} parameters, {len(gradients)} gradients, {len(offsets)} offsets and {len(groups)} groups"
            ": expected one of each a parameter"
        )
    if not parameters:
        return
    if hyperparameters.dim() != 2 or hyperparameters.shape[1] != columns:
        raise ValueError(
            f"hyperparameters is of shape {tuple(hyperparameters.shape)}: expected [groups, {columns}], see COLUMNS"
        )
    check_parameters(parameters, [f"parameter {i}" for i in range(len(parameters))])
    device, dtype = parameters[0].device, parameters[0].dtype
    # Live state is shorter than the arena, so only the mask tells the arena's length.
    length = len(mask) * (1 if device.type == "cpu" else 8) if options.live_state else state.shape[-1]
    for i, (p, gradient, offset, group) in enumerate(zip(parameters, gradients, offsets, groups, strict=True)):
        check_gradient(f"parameter {i}", p, gradient, shadowed=is_shadowed(p, gradient) and options.shadow is not None)
        if not same_order(p, gradient):
            raise ValueError(
                f"the gradient of parameter {i} has strides {gradient.stride()}, the parameter {p.stride()}: "
                "copy it to these first"
            )
        if offset % PAD or not 0 <= offset <= length - p.numel():
            raise ValueError(
                f"offset {offset} of parameter {i}: expected a multiple of {PAD} inside the arena of {length}"
            )
        if not 0 <= group < len(hyperparameters):
            raise ValueError(f"parameter {i} is in group {group} of {len(hyperparameters)}")
    blocks = options.blocks
    if options.live_state and blocks is None:
        raise ValueError("live_state needs blocks, the table of block_table")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = [
        (name_of_state, state, wide, (*(() if buffers == state.dim() == 1 else (buffers,)), state.shape[-1])),
        ("mask", mask, torch.uint8, (length if device.type == "cpu" else length // 8,)),
        ("hyperparameters", hyperparameters, hyperparameters.dtype, (len(hyperparameters), columns)),
        ("blocks", blocks, torch.int64, (length // PAD, 2)),
        ("steps", options.steps, torch.int32, (length // PAD,)),
        ("shadow", options.shadow, torch.bfloat16, (length,)),
    ]
    for name, tensor, kind, shape in expected:
        if tensor is None:
            continue
        if (tensor.device, tensor.dtype, tuple(tensor.shape)) != (device, kind, shape) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: "
                f"expected contiguous {kind} {shape} on {device}"
            )
    if options.live_state and device.type == "cpu" and blocks is not None and len(blocks) and not _compiling():
        needed = int(blocks[-1].sum())  # on a GPU the host would wait for this number
        if state.shape[-1] < needed:
            raise ValueError(
                f"{name_of_state} has {state.shape[-1]} places: its blocks need up to {needed}, see block_table"
            )
    if not hyperparameters.is_floating_point():
        raise TypeError(f"hyperparameters are {hyperparameters.dtype}: expected a floating-point tensor")
    for name, tensor in (("grad_scale", options.grad_scale), ("found_inf", options.found_inf)):
        if tensor is not None and (tensor.numel() != 1 or not tensor.is_floating_point() or tensor.device != device):
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: expected one float on {device}"
            )


def check_parameters(parameters: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raises ValueError, naming the parameter, if one launch cannot serve all of them."""
    first = parameters[0]
    for name, p in zip(names, parameters, strict=True):
        # Recognized by their attributes, because importing torch.distributed's classes takes seconds.
        if hasattr(p, "placements") or getattr(p, "_fsdp_flattened", False):
            raise ValueError(
                f"{name} is {'a DTensor' if hasattr(p, 'placements') else 'flattened by FSDP'}, of which every rank "
                "holds a part (FSDP, tensor parallelism): expected whole tensors, as DistributedDataParallel keeps them"
            )
        if p.device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name} is on {p.device}: expected cpu or cuda")
        allowed = (torch.float32, torch.bfloat16) + ((torch.float64,) if p.device.type == "cpu" else ())
        if p.dtype not in allowed:
            raise ValueError(f"{name} is {p.dtype} on {p.device}: expected one of {', '.join(map(str, allowed))}")
        if (p.device, p.dtype) != (first.device, first.dtype):
            raise ValueError(
                f"{name} is {p.dtype} on {p.device}, but {names[0]} is {first.dtype} on {first.device}: "
                "give parameters of one device and one dtype"
            )
        if p.layout != torch.strided or not is_dense(p):
            raise ValueError(
                f"{name} has shape {tuple(p.shape)} and strides {p.stride()}: its storage overlaps or has gaps; "
                "make it a contiguous copy of itself first"
            )
    if not _compiling() and (both := first_overlap(parameters)):
        i, j = both
        raise ValueError(f"{names[i]} and {names[j]} share memory: give each a storage of its own, or pass one only")


def is_shadowed(p: Tensor, g: Tensor) -> bool:
    """Whether this is the gradient of a parameter's bfloat16 copy."""
    return p.dtype == torch.float32 and g.dtype == torch.bfloat16


def check_gradient(name: str, p: Tensor, g: Tensor, shadowed: bool = False) -> None:
    """Raises ValueError if `g` cannot be the gradient of parameter `p`, called `name`. Memory order is not checked.

    shadowed: the gradient is that of the parameter's bfloat16 copy.
    """
    if g.layout != torch.strided:
        raise ValueError(f"the gradient of {name} is {g.layout}: expected a dense one")
    if (g.shape, g.device, g.dtype) != (p.shape, p.device, torch.bfloat16 if shadowed else p.dtype):
        raise ValueError(
            f"the gradient of {name} is {g.dtype} {tuple(g.shape)} on {g.device}, the parameter {p.dtype} "
            f"{tuple(p.shape)} on {p.device}: if it is of an earlier state of the model, call zero_grad() first"
        )


def _compiling() -> bool:
    return torch.compiler.is_compiling()  # tensors have no address then
