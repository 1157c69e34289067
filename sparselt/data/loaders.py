"""One way to ask for batches: data in memory is augmented there, all else is streamed; both give the same batches."""

import math
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch

from sparselt.data.dataset import Dataset
from sparselt.data.manifest import Manifest
from sparselt.data.order import Shard
from sparselt.data.resident import ResidentData, ResidentEvalLoader, ResidentTrainLoader
from sparselt.data.streaming import StreamingEvalLoader, StreamingTrainLoader
from sparselt.data.transforms import CenterCrop, Normalize, PadCrop, RandomResizedCrop
from sparselt.errors import DataError

Engine = Literal["resident", "streaming"]
Transform = TypeVar("Transform", PadCrop, RandomResizedCrop, CenterCrop)

_SHARE_OF_FREE = 0.25  # of the device's memory; the network and what it computes need the rest
_EVAL_BATCH, _LEAST_EVAL_BATCH = 1000, 64
_CACHED_BYTES = 768 * 1024


def engine_for(data: Dataset | ResidentData, device: torch.device | str = "cpu") -> Engine:
    """`resident` for data in memory, and for arrays that take at most a quarter of the device's free memory."""
    if isinstance(data, ResidentData):
        return "resident"
    if data.manifest.field != "ndarray":
        return "streaming"
    size = sum(record.bytes for record in data.manifest.splits.values())
    return "resident" if size <= _SHARE_OF_FREE * free_bytes(torch.device(device)) else "streaming"


def train_transform(manifest: Manifest, options: Mapping[str, Any]) -> PadCrop | RandomResizedCrop:
    """The training transform with these fields, and the manifest's normalization. With a `padding`, a PadCrop."""
    if "padding" in options:
        return _normalized(PadCrop, manifest, options)
    return _normalized(RandomResizedCrop, manifest, options)


def eval_transform(manifest: Manifest, options: Mapping[str, Any] | None) -> Normalize | CenterCrop:
    """The CenterCrop with these fields and the manifest's normalization; None: the normalization alone."""
    return manifest.normalization if options is None else _normalized(CenterCrop, manifest, options)


def train_loader(
    data: Dataset | ResidentData,
    batch_size: int,
    *,
    order_seed: int,
    augmentation_seed: int,
    transform: PadCrop | RandomResizedCrop,
    device: torch.device | str = "cpu",
    threads: int = 1,
    shard: Shard | None = None,
    engine: Engine | None = None,
) -> ResidentTrainLoader | StreamingTrainLoader:
    """Training batches: `.steps_per_epoch` and `.epoch(e, start_step)`, the same from either engine.

    shard: which share of every batch this process reads; default: this rank's, where torch.distributed is initialized.
    engine: default: that of `engine_for`.
    """
    seeds = (order_seed, augmentation_seed)
    if (engine or engine_for(data, device)) == "resident":
        shift = cast(PadCrop, transform)  # the loader refuses any other
        return ResidentTrainLoader(_resident(data), batch_size, *seeds, shift, device, shard)
    return StreamingTrainLoader(_on_disk(data), batch_size, *seeds, transform, device, threads, shard)


def eval_loader(
    data: Dataset | ResidentData,
    transform: Normalize | CenterCrop,
    batch_size: int | None = None,
    *,
    device: torch.device | str = "cpu",
    threads: int = 1,
    split: str = "test",
    shard: Shard | None = None,
    engine: Engine | None = None,
    indices: np.ndarray | None = None,
) -> ResidentEvalLoader | StreamingEvalLoader:
    """Every sample of a split once, never augmented: iterable, the same from either engine.

    batch_size: default: 1000, or on a CPU as many as its caches hold (larger batches take up to 2.5 times as long).
    shard, engine: see `train_loader`.
    indices: int64 [N], read only these samples, in this order.
    """
    batch_size = batch_size or _eval_batch_size(data, transform, device)
    if (engine or engine_for(data, device)) == "resident":
        normal = cast(Normalize, transform)  # the loader refuses any other
        return ResidentEvalLoader(_resident(data), normal, batch_size, device, split, shard, indices)
    return StreamingEvalLoader(_on_disk(data), transform, batch_size, device, threads, split, shard, indices=indices)


def _normalized(kind: type[Transform], manifest: Manifest, options: Mapping[str, Any]) -> Transform:
    normal = manifest.normalization
    return kind(**options, mean=normal.mean, std=normal.std, scale=normal.scale)


def _eval_batch_size(
    data: Dataset | ResidentData, transform: Normalize | CenterCrop, device: torch.device | str
) -> int:
    if torch.device(device).type != "cpu":
        return _EVAL_BATCH
    channels = len(transform.mean)
    if isinstance(transform, CenterCrop):
        numbers = channels * transform.size**2
    else:
        numbers = math.prod(data.manifest.splits["test"].array_shape)
    return max(_LEAST_EVAL_BATCH, min(_EVAL_BATCH, _CACHED_BYTES // (4 * numbers)))


def _on_disk(data: Dataset | ResidentData) -> Dataset:
    if isinstance(data, ResidentData):
        raise DataError("data in memory cannot be streamed: give the Dataset, or engine='resident'")
    return data


def _resident(data: Dataset | ResidentData) -> ResidentData:
    """The data set in memory, read once a process."""
    if isinstance(data, ResidentData):
        return data
    key = (data.folder, data.manifest.fingerprint)
    if key not in _read:
        _read.clear()
        _read[key] = ResidentData.read(data)
    return _read[key]


_read: dict[tuple, ResidentData] = {}  # the last one: two at once would be more than was asked for


def free_bytes(device: torch.device) -> int:
    """Unused memory of the device; of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
