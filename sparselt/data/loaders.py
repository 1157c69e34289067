"""One way to ask for batches: the engine follows from the size of the data unless it is named."""

import os
from typing import Literal

import torch

from sparselt.data.dataset import Dataset
from sparselt.data.order import Shard
from sparselt.data.resident import ResidentData, ResidentEvalLoader, ResidentTrainLoader
from sparselt.data.streaming import StreamingEvalLoader, StreamingTrainLoader
from sparselt.data.transforms import CenterCrop, Normalize, PadCrop, RandomResizedCrop

Engine = Literal["resident", "streaming"]

_SHARE_OF_FREE = 0.25  # of the device's memory; the network and what it computes need the rest


def engine_for(dataset: Dataset, device: torch.device | str = "cpu") -> Engine:
    """`resident` for arrays of one size that together take at most a quarter of the device's free memory."""
    if dataset.manifest.field != "ndarray":
        return "streaming"
    size = sum(record.bytes for record in dataset.manifest.splits.values())
    return "resident" if size <= _SHARE_OF_FREE * _free_bytes(torch.device(device)) else "streaming"


def train_loader(
    dataset: Dataset,
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
    """Training batches from betons: `.steps_per_epoch` and `.epoch(e, start_step)`, the same from either engine.

    shard: which share of every batch this process reads; default: this rank's, where torch.distributed is initialised.
    """
    seeds = {"order_seed": order_seed, "augmentation_seed": augmentation_seed}
    if (engine or engine_for(dataset, device)) == "resident":
        resident = _resident(dataset)
        return ResidentTrainLoader(resident, batch_size, **seeds, transform=transform, device=device, shard=shard)
    return StreamingTrainLoader(
        dataset, batch_size, **seeds, transform=transform, device=device, threads=threads, shard=shard
    )


def eval_loader(
    dataset: Dataset,
    transform: Normalize | CenterCrop,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    threads: int = 1,
    split: str = "test",
    shard: Shard | None = None,
    engine: Engine | None = None,
) -> ResidentEvalLoader | StreamingEvalLoader:
    """Every sample of a split once, never augmented: iterable, the same from either engine.

    shard: see `train_loader`.
    """
    if (engine or engine_for(dataset, device)) == "resident":
        return ResidentEvalLoader(_resident(dataset), transform, batch_size, device, split, shard)
    return StreamingEvalLoader(dataset, transform, batch_size, device, threads, split, shard)


def _resident(dataset: Dataset) -> ResidentData:
    """The data set in memory, read once a process."""
    key = (dataset.folder, dataset.manifest.fingerprint)
    if key not in _read:
        _read.clear()
        _read[key] = ResidentData.read(dataset)
    return _read[key]


_read: dict[tuple, ResidentData] = {}  # the last one: two at once would be more than was asked for


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
