"""Reads masks and weights that other tools saved with `torch.save` or in safetensors; nothing else is unpickled."""

import os
import re
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor

from sparselt.errors import MaskError
from sparselt.masks import Mask
from sparselt.masks.file import is_mask_file

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
    - fasterai (nathanhubens/fasterai): a state dict, or fastai's "model", with a buffer `_mask` beside a `weight`, of
      size 1 in dimensions that it prunes whole (filters, kernels), and `_init_weights`, `_init_biases`, which are left
      out (fasterai/sparse/sparsifier.py).
    - `torch.nn.utils.prune`: `NAME_orig` and `NAME_mask`.

    Warns of an entry called as a mask beside which no weight stands: it counts as a tensor of the network.

    Raises:
        MaskError: the file is a folder, does not load with `weights_only=True`, holds no tensors by name, or a mask in
            it is not of zeros and ones or does not fit its weight.
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
    layers = {
        name: _checked(name, layer, weights.get(name), path, masks.get(name, "")) for name, layer in layers.items()
    }
    if alone := [name for name in weights if re.search(r"(^|\.)(_?mask|weight_mask)$", name)]:
        warnings.warn(
            f"{os.fspath(path)}: {alone[0]} is not read as a mask, because its weight is not in the file", stacklevel=2
        )
    for name, layer in layers.items():
        if name in weights:
            weights[name] = weights[name].masked_fill(~layer, 0)
    return Checkpoint(weights, Mask(layers) if layers else None)


def read_ticket(place: str | os.PathLike) -> Checkpoint:
    """A network and its mask, from where its makers left them.

    Args:
        place: a file of `read_checkpoint`, or of `Mask.save`; two files joined by +, `WEIGHTS+MASK`; or a folder of
            open_lth, of which `mask.pth` and the last `model_epE_itI.pth` are read, or one of `Ticket.export`.

    Raises:
        MaskError: see `read_checkpoint`; a folder without these files; two files of which none is a mask.
    """
    text = os.fspath(place)
    parts = [text] if os.path.exists(text) else text.split("+")
    exported = [os.path.join(text, name) for name in ("model.safetensors", "mask.safetensors")]
    if os.path.isdir(text) and os.path.exists(exported[0]):
        parts = [path for path in exported if os.path.exists(path)]
    elif os.path.isdir(text):
        steps = {name: re.fullmatch(r"model_ep(\d+)_it(\d+)\.pth", name) for name in os.listdir(text)}
        models = sorted((int(found[1]), int(found[2]), name) for name, found in steps.items() if found)
        names = [name for *_, name in models[-1:]] + [name for name in ("mask.pth",) if name in steps]
        if not names:
            raise MaskError(
                f"{text} has neither mask.pth nor model_ep…_it….pth nor model.safetensors; expected a folder of "
                "open_lth or of `sparselt runs export`, or a file"
            )
        parts = [os.path.join(text, name) for name in names]
    found = [_own_mask(part) or read_checkpoint(part) for part in parts]
    weights = next((each.weights for each in found if each.weights), {})
    mask = next((each.mask for each in found if each.mask is not None), None)
    if len(parts) > 1 and mask is None and not os.path.isdir(text):
        raise MaskError(f"neither of {' and '.join(parts)} holds a mask; give WEIGHTS+MASK, or the weights alone")
    if mask is not None and weights:
        mask.check_fits(weights)
        weights = {n: t.masked_fill(~mask[n], 0) if n in mask else t for n, t in weights.items()}
    return Checkpoint(weights, mask)


def _own_mask(path: str) -> Checkpoint | None:
    """What `Mask.save` wrote; None for another file."""
    return Checkpoint({}, Mask.load(path)) if is_mask_file(path) else None


def _loaded(path: str | os.PathLike) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if os.path.isdir(path):
        raise MaskError(
            f"{os.fspath(path)} is a folder; expected a file: read_ticket reads those of open_lth and of Ticket.export"
        )
    try:
        if os.fspath(path).endswith(".safetensors"):
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MaskError(f"{os.fspath(path)} does not exist; expected a file of weights or of a mask") from error
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise MaskError(
            f"{os.fspath(path)} does not load as tensors alone ({_plain(error)}); save the network's "
            "state_dict(): whole pickled networks are not read, because unpickling runs code"
        ) from error


def _plain(error: Exception) -> str:
    """The first line of a message, without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", (str(error).splitlines() or [type(error).__name__])[0])


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


def _checked(name: str, layer: Tensor, weight: Tensor | None, path: str | os.PathLike, entry: str) -> Tensor:
    """The mask of a weight as bool, in its shape. entry: what the file calls it; empty in a file of a mask alone."""
    where = f"{os.fspath(path)}: the mask of {name}"
    if not ((layer == 0) | (layer == 1)).all():
        raise MaskError(f"{where} has values other than 0 and 1")
    if weight is None or weight.shape == layer.shape:
        return layer.bool()
    of_fasterai = re.search(r"(^|\.)_mask$", entry) and layer.dim() == weight.dim()
    if of_fasterai and all(own in (1, side) for own, side in zip(layer.shape, weight.shape, strict=True)):
        return layer.bool().expand_as(weight)
    raise MaskError(
        f"{where} has shape {tuple(layer.shape)}, the weight {tuple(weight.shape)}; expected equal shapes, or, of "
        "fasterai's _mask, size 1 where it holds for a whole dimension"
    )
