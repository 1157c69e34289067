"""Weights on disk: safetensors files with a network's parameters and buffers, momentum in a file of its own."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparselt.errors import StoreError
from sparselt.masks import Mask


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` to `path` through a temporary name; layouts other than contiguous are stored contiguous."""
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a file of `save_tensors` onto the CPU.

    Raises:
        StoreError: the file is missing or does not read back.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"checkpoint {path} does not read back ({error}); delete its folder and run again") from error


def rewind_(model: nn.Module, checkpoint: Mapping[str, Tensor], mask: Mask | None) -> None:
    """Sets `model` to exactly mask ⊙ checkpoint, buffers included, in place.

    Raises:
        StoreError: the checkpoint is of another network; nothing has been written then.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in checkpoint or checkpoint[name].shape != tensor.shape:
            raise StoreError(f"the checkpoint does not fit the network: {name!r} is missing or has another shape")
    if mask is not None:
        mask.check_fits(state)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(checkpoint[name])
    if mask is not None:
        mask.apply_(model)


def save_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Writes the momentum of every parameter that has one, under the parameter's name."""
    buffers = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
    }
    save_tensors(buffers, path)


def restore_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, Tensor]) -> None:
    """Gives `optimizer` the momentum that `save_momentum` wrote; its mask stays in force."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    state = optimizer.state_dict()
    index = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if names[parameter] in momentum:
                state["state"][index] = {"momentum_buffer": momentum[names[parameter]]}
            index += 1
    optimizer.load_state_dict(state)
