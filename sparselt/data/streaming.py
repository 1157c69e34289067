"""Data sets that do not fit the device: decoded and cropped on the CPU while the network trains."""

import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from sparselt.data import ffcv_bridge
from sparselt.data.batch import Batch, augmented, normalized
from sparselt.data.dataset import Dataset
from sparselt.data.order import Shard, batches_of, check_indices, sample_order, steps_in
from sparselt.data.plain import PlainReader
from sparselt.data.transforms import CenterCrop, Normalize, PadCrop, RandomResizedCrop
from sparselt.errors import DataError

READERS = ("auto", "ffcv", "pillow")


class StreamingTrainLoader:
    """Training batches; what sample i shows in epoch e depends on the seeds, e and i alone.

    transform: RandomResizedCrop of pictures, PadCrop of arrays. threads: that decode, at most one a core.
    shard: which share of every batch this process reads; batch_size and steps_per_epoch are those of all together.
        Default: this rank's, where torch.distributed is initialised.
    reader: "ffcv", or "pillow", which needs no FFCV and is slower; "auto" takes FFCV where it is installed.
    FFCV's compilation (seconds) happens at the first batch and once a process.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        order_seed: int,
        augmentation_seed: int,
        transform: RandomResizedCrop | PadCrop,
        device: torch.device | str = "cpu",
        threads: int = 1,
        shard: Shard | None = None,
        reader: str = "auto",
    ):
        kind = RandomResizedCrop if dataset.manifest.field == "rgb_image" else PadCrop
        _check_transform(dataset, transform, kind, "stream training")
        self.batch_size, self.transform, self.shard = batch_size, transform, shard or Shard.current()
        self.order_seed, self.augmentation_seed = order_seed, augmentation_seed
        self.count = dataset.count("train")
        self.steps_per_epoch = steps_in(self.count, batch_size)
        share = len(self.shard.share(batch_size))
        self._stream = _Stream(dataset, "train", share, transform, device, threads, reader)
        self.reader = self._stream.reader

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The whole batches of this epoch from `start_step` on; nothing before it is decoded."""
        order = sample_order(self.order_seed, epoch, self.count)
        steps = batches_of(order, self.batch_size, start_step, self.shard)
        return self._stream.batches(steps.reshape(-1), self.augmentation_seed, epoch)


class StreamingEvalLoader:
    """Every sample of a split exactly once, in the order of the beton, never augmented.

    transform: CenterCrop of pictures, Normalize of arrays. Of several ranks each has its part of the samples. indices:
    int64 [N], read only these samples, in this order. The other arguments are those of `StreamingTrainLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: CenterCrop | Normalize,
        batch_size: int,
        device: torch.device | str = "cpu",
        threads: int = 1,
        split: str = "test",
        shard: Shard | None = None,
        reader: str = "auto",
        indices: np.ndarray | None = None,
    ):
        kind = CenterCrop if dataset.manifest.field == "rgb_image" else Normalize
        _check_transform(dataset, transform, kind, "evaluate streamed")
        count = dataset.count(split)
        chosen = np.arange(count) if indices is None else check_indices(indices, count)
        self._order = chosen[np.array((shard or Shard.current()).share(len(chosen)))]
        self.count = len(self._order)
        self.batch_size, self.transform = min(batch_size, self.count), transform
        steps_in(self.count, self.batch_size)
        self._stream = _Stream(dataset, split, self.batch_size, transform, device, threads, reader)
        self.reader = self._stream.reader

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(self._order)


class _Stream:
    """The reader of one split under one transform, and the way of its batches to the device."""

    def __init__(self, dataset: Dataset, split: str, batch_size: int, transform, device, threads: int, reader: str):
        if threads < 1:
            raise DataError(f"{threads} decoding threads: ask for at least 1")
        path, self.transform, self.device = dataset.path(split), transform, torch.device(device)
        pinned = self.device.type == "cuda"
        arrays = dataset.manifest.field == "ndarray"
        self.reader = "arrays" if arrays else _chosen(reader)
        if self.reader == "ffcv":
            from sparselt.data.decoder import FfcvReader

            self._reader = FfcvReader(path, transform, batch_size, threads)
        else:
            self._reader = PlainReader(path, None if arrays else transform, batch_size, threads, pinned)
        self._labels = self._reader.beton.labels
        self._copies: torch.cuda.Stream | None = None

    def batches(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        images_of = self._reader.images(order, seed, epoch)
        try:
            batches = self._with_labels(images_of, order)
            for tensors in batches if self.device.type == "cpu" else self._copied(batches):
                yield self._finished(*tensors, seed, epoch)
        finally:
            images_of.close()

    def _with_labels(self, images_of: Iterator[torch.Tensor], order: np.ndarray) -> Iterator[list[torch.Tensor]]:
        position = 0
        for images in images_of:
            indices = order[position : position + len(images)]
            position += len(images)
            yield [images, torch.from_numpy(self._labels[indices]), torch.from_numpy(indices.copy())]

    def _finished(self, images: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor, seed: int, epoch: int):
        transform = self.transform
        if isinstance(transform, PadCrop):
            drawn = {"seed": seed, "epoch": epoch, "padding": transform.padding, "flip": transform.flip}
            return Batch(augmented(images, indices, transform, **drawn), labels, indices)
        return Batch(normalized(images, indices, transform), labels, indices)

    def _copied(self, batches: Iterator[list[torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        """Each batch on the device; the next one is copied while the network works on this one."""
        self._copies = self._copies or torch.cuda.Stream(self.device)
        ready, copied = None, None
        for tensors in batches:
            with torch.cuda.stream(self._copies):
                following = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
                done = self._copies.record_event()
            if copied is not None:
                yield self._received(copied, ready)
            if self._reader.reuses_memory:
                done.synchronize()  # before the reader is asked for more, which it may write over what is copied
            copied, ready = following, done
        if copied is not None:
            yield self._received(copied, ready)

    def _received(self, tensors: list[torch.Tensor], ready) -> list[torch.Tensor]:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ready)
        for tensor in tensors:
            tensor.record_stream(stream)
        return tensors


def picture_reader() -> str:
    """Who decodes pictures here: "ffcv", or "pillow" where FFCV cannot be imported."""
    return "ffcv" if _missing() is None else "pillow"


def _chosen(reader: str) -> str:
    if reader not in READERS:
        raise DataError(f"reader {reader!r} is unknown: choose one of {', '.join(READERS)}")
    if reader == "ffcv":
        ffcv_bridge.require_ffcv()
    if reader != "auto":
        return reader
    if picture_reader() == "pillow":
        _say_once()
    return picture_reader()


@cache
def _missing() -> str | None:
    try:
        ffcv_bridge.require_ffcv()
    except DataError as error:
        return str(error)
    return None


@cache
def _say_once() -> None:
    warnings.warn(
        f"pictures are decoded by Pillow, in the same order and with the same crops, but slower: {_missing()}",
        stacklevel=4,
    )


def _check_transform(dataset: Dataset, transform, kind: type, purpose: str) -> None:
    if not isinstance(transform, kind):
        held = "pictures" if dataset.manifest.field == "rgb_image" else "fixed-size arrays"
        raise DataError(f"{type(transform).__name__} cannot {purpose} images of {held}: give a {kind.__name__}")
