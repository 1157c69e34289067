"""Reads masks and weights that other tools saved with `torch.save` or in safetensors; nothing else is unpickled."""

import os
import re
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor

from sparselt.errors import MaskError
from sparselt.masks import Mask

_NESTED = ("model_state_dict", "state_dict", "model")


class Checkpoint(NamedTuple):
    """weights: tensors by name, 0.0 where pruned; none in a file of a mask alone. mask: None if the file has none."""

    weights: dict[str, Tensor]
    mask: Mask | None


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Weights and mask of a checkpoint, by the parameter names of the plain network, on the CPU.

    Known are, by the names of their entries:

    - open_lth (facebookresearch/open_lth): `mask.pth`, integers 0 and 1 by parameter name (pruning/mask.py); the
      network `model_epE_itI.pth` (models/base.py); `checkpoint.pth`, whose "model_state_dict" has `model.NAME` and
      `mask_NAME` with ___ for each dot (training/checkpointing.py, pruning/pruned_model.py).
    - TurboPrune (nelaturuharsha/TurboPrune): a state dict with a buffer `mask` beside each `weight`
      (utils/mask_layers.py, utils/harness_utils.py).
    - fasterai (nathanhubens/fasterai): a state dict, or fastai's "model", with a buffer `_mask` beside a `weight`, for
      whole filters of fewer values, and `_init_weights`, `_init_biases`, which are left out
      (fasterai/sparse/sparsifier.py).
    - `torch.nn.utils.prune`: `NAME_orig` and `NAME_mask`.

    Raises:
        MaskError: the file does not load with `weights_only=True`, holds no tensors by name, or a mask in it is not of
            zeros and ones or does not fit its weight.
    """
    state = _tensors(_loaded(path), path)
    masks, weights = _masks(state), {}
    for name, tensor in state.items():
        if name not in masks.values() and not name.endswith(("._init_weights", "._init_biases")):
            weights[name.removesuffix("_orig") if name.removesuffix("_orig") in masks else name] = tensor
    if any(found.startswith("mask_") for found in masks.values()):  # open_lth's PrunedModel wraps the network
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    layers = {name: state[found] for name, found in masks.items()}
    if not layers and all(not tensor.is_floating_point() for tensor in weights.values()):
        weights, layers = {}, weights
    layers = {name: _checked(name, layer, weights.get(name), path) for name, layer in layers.items()}
    for name, layer in layers.items():
        if name in weights:
            weights[name] = weights[name].masked_fill(~layer, 0)
    return Checkpoint(weights, Mask(layers) if layers else None)


def _loaded(path: str | os.PathLike) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if os.fspath(path).endswith(".safetensors"):
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise MaskError(
            f"{os.fspath(path)} does not load as tensors alone ({str(error).splitlines()[0]}); save the network's "
            "state_dict(): whole pickled networks are not read, because unpickling runs code"
        ) from error


def _tensors(found: object, path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors by name, without the names of wrappers in front."""
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    named = found.items() if isinstance(found, Mapping) else ()
    state = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise MaskError(f"{os.fspath(path)} holds no tensors by name; expected a mask, or a state_dict()")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}


def _masks(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For each masked weight, by name, the entry that holds its mask."""
    found = {}
    for name in state:
        weight = re.sub(r"(^|\.)_?mask$", r"\1weight", name)
        if name.startswith("mask_") and f"model.{name[5:].replace('___', '.')}" in state:
            found[name[5:].replace("___", ".")] = name
        elif weight != name and weight in state:
            found[weight] = name
        elif name.endswith("_mask") and f"{name[:-5]}_orig" in state:
            found[name[:-5]] = name
    return found


def _checked(name: str, layer: Tensor, weight: Tensor | None, path: str | os.PathLike) -> Tensor:
    where = f"{os.fspath(path)}: the mask of {name}"
    if not ((layer == 0) | (layer == 1)).all():
        raise MaskError(f"{where} has values other than 0 and 1")
    if weight is None or weight.shape == layer.shape:
        return layer.bool()
    try:
        return layer.bool().expand_as(weight)
    except RuntimeError:
        raise MaskError(f"{where} has shape {tuple(layer.shape)}, the weight {tuple(weight.shape)}") from None
