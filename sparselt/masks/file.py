"""The file of a mask: safetensors, one bit a weight, with a checksum."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import MaskError
from sparselt.files import write_bytes

_METADATA_KEY = "sparselt_mask"
_ELSE = (
    "expected what Mask.save writes; sparselt.masks.checkpoints reads files of other tools and of Ticket.export: "
    "read_checkpoint(path).mask, or read_ticket(folder)"
)


def write_mask_file(layers: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """See `sparselt.Mask.save`."""
    from safetensors.numpy import save

    packed = {name: np.packbits(layer.cpu().numpy().reshape(-1)) for name, layer in layers.items()}
    shapes = {name: list(layer.shape) for name, layer in layers.items()}
    path = Path(path)
    if path.is_dir():
        raise MaskError(f"mask file {path} is a folder; give the path of a file")
    # One entry, because safetensors writes several in any order.
    content = {"shapes": shapes, "sha256": _digest(shapes, packed)}
    data = save(packed, metadata={_METADATA_KEY: json.dumps(content)})
    write_bytes(path, data, error=MaskError, what=f"mask file {path}", advice="choose another path")


def is_mask_file(path: str | os.PathLike) -> bool:
    """Whether the file says that it is one of `write_mask_file`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_mask_file(path: str | os.PathLike) -> dict[str, Tensor]:
    """The layers of a file, see `sparselt.Mask.load`."""
    from safetensors import SafetensorError, safe_open

    if os.path.isdir(path):
        raise MaskError(f"{os.fspath(path)} is a folder, not a mask file; {_ELSE}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if _METADATA_KEY not in metadata:
                raise MaskError(f"{os.fspath(path)} is not a mask file; {_ELSE}")
            shapes, digest = _shapes_and_digest(json.loads(metadata[_METADATA_KEY]))
            if set(file.keys()) != shapes.keys():
                raise ValueError("its layers are not those of its shapes")
            packed = {name: file.get_tensor(name) for name in shapes}
        if digest not in ("", _digest(shapes, packed)):
            raise ValueError("its checksum is another")
        layers = {name: _unpacked(packed[name], shape) for name, shape in shapes.items()}
    except MaskError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise MaskError(f"{os.fspath(path)} does not read as a mask file ({error}); {_ELSE}") from error
    return layers


def _digest(shapes: Mapping[str, Sequence[int]], packed: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the shapes and the bits, in the order of the shapes."""
    digest = hashlib.sha256(json.dumps(shapes).encode())
    for name in shapes:
        digest.update(packed[name].tobytes())
    return digest.hexdigest()


def _shapes_and_digest(content: object) -> tuple[dict[str, list[int]], str]:
    """The shapes in a mask file, and its digest: empty if an earlier version wrote it. ValueError for anything else."""
    shapes, digest = content, ""
    if isinstance(content, dict) and isinstance(content.get("sha256"), str):
        shapes, digest = content.get("shapes"), content["sha256"] or "none"
    if not isinstance(shapes, dict):
        raise ValueError("its shapes are no mapping")
    for shape in shapes.values():
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"a shape of it is {str(shape)[:40]}")
    return shapes, digest


def _unpacked(bits: np.ndarray, shape: Sequence[int]) -> Tensor:
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError(f"it has {bits.nbytes} bytes for {size} weights of shape {shape}")
    return torch.from_numpy(np.unpackbits(bits, count=size).view(bool).reshape(shape))
