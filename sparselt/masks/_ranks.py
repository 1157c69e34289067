"""The masks of the ranks of `torch.distributed`: that of one for all, and whether all are equal."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import MaskError, SettingError


def broadcast(layers: Mapping[str, Tensor], source: int) -> dict[str, Tensor]:
    """See `sparselt.Mask.broadcast`."""
    count = torch.distributed.get_world_size()
    if not isinstance(source, int) or not 0 <= source < count:
        raise SettingError(f"source is {source!r}; expected a rank from 0 to {count - 1}")
    shapes = _of_all_ranks({name: tuple(layer.shape) for name, layer in layers.items()})
    for rank, found in enumerate(shapes):
        if differing := _differing(found, shapes[source]):
            theirs, ours = (
                f"has shape {s[differing]}" if differing in s else "has none" for s in (found, shapes[source])
            )
            raise MaskError(
                f"the ranks' masks have other layers: of {differing!r} rank {rank} {theirs}, rank {source} {ours}; "
                "expected equal names and shapes on all ranks: make each mask from the same network"
            )
    bits = [_bits(layers[name]).tobytes() for name in shapes[source]]
    torch.distributed.broadcast_object_list(bits, source)  # NCCL would not take a mask on the CPU
    sent = {}
    for name, given in zip(shapes[source], bits, strict=True):
        layer = layers[name]
        flat = np.unpackbits(np.frombuffer(given, np.uint8), count=layer.numel())
        sent[name] = torch.from_numpy(flat).bool().view(layer.shape).to(layer.device)
    return sent


def check_equal(layers: Mapping[str, Tensor], group: "torch.distributed.ProcessGroup | None") -> None:
    """See `sparselt.Mask.check_equal_across_ranks`."""
    own = {name: (tuple(layer.shape), _checksum(layer)) for name, layer in layers.items()}
    everyone = _of_all_ranks(own, group)
    for rank, found in enumerate(everyone):
        if differing := _differing(found, everyone[0]):
            raise MaskError(
                f"the ranks' masks are not equal: {differing!r} of rank {rank} differs from that of rank 0; "
                "take that of rank 0 everywhere, mask = mask.broadcast(), or make it from weights that are equal"
            )


def _of_all_ranks(own: dict, group: "torch.distributed.ProcessGroup | None" = None) -> list[dict]:
    found: list[dict] = [{} for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather_object(found, own, group)
    return found


def _differing(layers: dict, others: dict) -> str | None:
    """The first name whose value differs, or that stands in only one of them."""
    return next((name for name in {**others, **layers} if layers.get(name) != others.get(name)), None)


def _checksum(layer: Tensor) -> str:
    return hashlib.sha256(_bits(layer).data).hexdigest()


def _bits(layer: Tensor) -> np.ndarray:
    """The mask as bits in logical order, whatever its memory order."""
    return np.packbits(layer.cpu().numpy().reshape(-1))
