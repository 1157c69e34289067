"""What masked_sgd_ refuses, by the position of the parameter, before anything is written."""

import torch

from .layout import PAD, SECTOR, first_overlap, is_dense, same_order


def check(
    parameters,
    gradients,
    momentum,
    mask,
    hyperparameters,
    offsets,
    groups,
    blocks,
    live_momentum,
    begun,
    grad_scale,
    found_inf,
) -> None:
    """ValueError or TypeError unless the arguments of `masked_sgd_` fit one another."""
    if not len(parameters) == len(gradients) == len(offsets) == len(groups):
        raise ValueError(
            f"{len(parameters)} parameters, {len(gradients)} gradients, {len(offsets)} offsets and {len(groups)} groups"
            ": expected one of each a parameter"
        )
    if not parameters:
        return
    if hyperparameters.dim() != 2 or hyperparameters.shape[1] != 7:
        raise ValueError(
            f"hyperparameters is of shape {tuple(hyperparameters.shape)}: expected [groups, 7], see COLUMNS"
        )
    device, dtype = parameters[0].device, parameters[0].dtype
    allowed = (torch.float32, torch.bfloat16) + ((torch.float64,) if device.type == "cpu" else ())
    if dtype not in allowed:
        raise TypeError(f"parameter 0 is {dtype} on {device}: expected one of {', '.join(map(str, allowed))}")
    # Live momentum is shorter than the arena, whose length the mask tells then.
    length = (len(mask) * (1 if device.type == "cpu" else 8)) if live_momentum else momentum.numel()
    for i in range(len(parameters)):
        _check_parameter(i, parameters, gradients, offsets, length)
        if not 0 <= groups[i] < len(hyperparameters):
            raise ValueError(f"parameter {i} is in group {groups[i]} of {len(hyperparameters)}")
    if not _compiling() and (both := first_overlap(parameters)):
        raise ValueError(f"parameters {both[0]} and {both[1]} share memory: give each a storage of its own")
    if live_momentum and blocks is None:
        raise ValueError("live_momentum needs blocks, the table of block_table")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bytes_of_mask = length if device.type == "cpu" else length // 8
    expected = [
        ("momentum", momentum, wide, (momentum.numel() if live_momentum else length,)),
        ("mask", mask, torch.uint8, (bytes_of_mask,)),
        ("hyperparameters", hyperparameters, hyperparameters.dtype, (len(hyperparameters), 7)),
        ("blocks", blocks, torch.int64, (length // PAD, 2)),
        ("begun", begun, torch.uint8, (length // PAD,)),
    ]
    for name, tensor, kind, shape in expected:
        if tensor is None:
            continue
        if (tensor.device, tensor.dtype, tuple(tensor.shape)) != (device, kind, shape) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: "
                f"expected contiguous {kind} {shape} on {device}"
            )
    if live_momentum and not _compiling() and device.type == "cpu" and len(blocks):  # on a GPU the host would wait
        needed = int(blocks[-1].sum()) + SECTOR
        if momentum.numel() < needed:
            raise ValueError(f"momentum has {momentum.numel()} places: its blocks need up to {needed}, see block_table")
    if not hyperparameters.is_floating_point():
        raise TypeError(f"hyperparameters are {hyperparameters.dtype}: expected a floating-point tensor")
    for name, tensor in (("grad_scale", grad_scale), ("found_inf", found_inf)):
        if tensor is not None and (tensor.numel() != 1 or not tensor.is_floating_point() or tensor.device != device):
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: expected one float on {device}"
            )


def _check_parameter(i, parameters, gradients, offsets, length) -> None:
    p, g, first = parameters[i], gradients[i], parameters[0]
    if (p.device, p.dtype) != (first.device, first.dtype):
        raise TypeError(
            f"parameter {i} is {p.dtype} on {p.device}, parameter 0 is {first.dtype} on {first.device}: give one kind"
        )
    if (g.shape, g.device, g.dtype) != (p.shape, p.device, p.dtype):
        raise ValueError(
            f"gradient {i} is {g.dtype} {tuple(g.shape)} on {g.device}, "
            f"its parameter {p.dtype} {tuple(p.shape)} on {p.device}"
        )
    if not is_dense(p):
        raise ValueError(
            f"parameter {i} has strides {p.stride()}: its storage overlaps or has gaps; give a clone of it"
        )
    if not same_order(p, g):
        raise ValueError(f"gradient {i} has strides {g.stride()}, its parameter {p.stride()}: copy it to these first")
    if offsets[i] % PAD or not 0 <= offsets[i] <= length - p.numel():
        raise ValueError(
            f"offset {offsets[i]} of parameter {i}: expected a multiple of {PAD} inside the arena of {length}"
        )


def _compiling() -> bool:
    return torch.compiler.is_compiling()  # tensors have no address then
