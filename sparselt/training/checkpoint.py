"""Weights on disk: safetensors files with a network's parameters and buffers, and separate files for momentum."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparselt.errors import StoreError
from sparselt.files import replacing
from sparselt.masks import Mask


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(packed(tensors))  # by Python, whose error for a full disk is an OSError


def packed(tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file: `tensors`, made contiguous, with `notes` as the file's metadata."""
    from safetensors.torch import save

    found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(found, None if notes is None else dict(notes))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a file written by `save_tensors` onto the CPU.

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
        StoreError: the checkpoint is of another network. Nothing is written.
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


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state (momentum and the like), under the names of `flat_state`."""
    state = optimizer.state_dict()["state"]
    return flat_state({name: state[i] for i, name in _places(model, optimizer) if i in state})


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Gives `optimizer` the state that `state_of` returned; its mask stays in force."""
    saved, state = nested_state(flat), optimizer.state_dict()
    state["state"].update({i: saved[name] for i, name in _places(model, optimizer) if name in saved})
    optimizer.load_state_dict(state)


def flat_state(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state as one flat dictionary: "name" holds SGD's momentum_buffer, "name:key" any other tensor."""
    return {
        name if key == "momentum_buffer" else f"{name}:{key}": tensor
        for name, entry in state.items()
        for key, tensor in entry.items()
        if tensor is not None
    }


def nested_state(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `flat_state`."""
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        name, _, key = name.partition(":")
        state.setdefault(name, {})[key or "momentum_buffer"] = tensor
    return state


def _places(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, str]]:
    """The number of each parameter in the optimizer's `state_dict()`, with its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return enumerate(names[parameter] for group in optimizer.param_groups for parameter in group["params"])
