"""Data sets that do not fit the device: the CPU decodes and crops while the network trains."""

import contextlib
import warnings
from collections.abc import Generator, Iterator
from functools import cache

import numpy as np
import torch

from sparselt.data import ffcv_bridge
from sparselt.data.batch import Batch, EvalLoader, TrainLoader, augmented, normalized
from sparselt.data.copying import CudaCopies, on_device
from sparselt.data.dataset import Dataset
from sparselt.data.decoder import FfcvReader
from sparselt.data.order import Shard
from sparselt.data.plain import PlainReader
from sparselt.data.transforms import CenterCrop, Normalize, PadCrop, RandomResizedCrop
from sparselt.errors import DataError

READERS = ("auto", "ffcv", "pillow")


class StreamingTrainLoader(TrainLoader):
    """Training batches, decoded while the network trains.

    transform: RandomResizedCrop for pictures, PadCrop for arrays. threads: decoding threads, at most one a core.
    reader: "ffcv"; "pillow", which needs no FFCV and is slower; "auto": FFCV where it is installed.
    FFCV compiles its code at the first batch of a process, which takes seconds.
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
        count = dataset.count("train")
        super().__init__(count, batch_size, order_seed, augmentation_seed, transform, device, shard)
        self._stream = _Stream(dataset, "train", self.share, transform, self.device, threads, reader)
        self.reader = self._stream.reader

    def _batches(self, steps: np.ndarray, epoch: int) -> Iterator[Batch]:
        return self._stream.batches(steps.reshape(-1), self.augmentation_seed, epoch)


class StreamingEvalLoader(EvalLoader):
    """A split, decoded in the order of the beton.

    transform: CenterCrop for pictures, Normalize for arrays. threads, reader: as for `StreamingTrainLoader`.
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
        super().__init__(dataset.count(split), batch_size, transform, shard, indices)
        self._stream = _Stream(dataset, split, self.batch_size, transform, torch.device(device), threads, reader)
        self.reader = self._stream.reader

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(self.indices)


class _Stream:
    """Reads one split under one transform, and brings its batches to the device."""

    def __init__(
        self, dataset: Dataset, split: str, batch_size: int, transform, device: torch.device, threads: int, reader: str
    ):
        if threads < 1:
            raise DataError(f"{threads} decoding threads: ask for at least 1")
        path, self.transform, self.device = dataset.path(split), transform, device
        arrays = dataset.manifest.field == "ndarray"
        self.reader = "arrays" if arrays else _chosen(reader)
        self._reader: PlainReader | FfcvReader
        if self.reader == "ffcv":
            self._reader = FfcvReader(path, transform, batch_size, threads)
        else:
            pinned = device.type == "cuda"
            self._reader = PlainReader(path, None if arrays else transform, batch_size, threads, pinned)
        self._copies: CudaCopies | None = None  # made with the first batch

    def batches(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        transform = self.transform
        with (
            contextlib.closing(self._reader.images(order, seed, epoch)) as images_of,
            contextlib.closing(self._placed(self._with_labels(images_of, order))) as batches,
        ):
            for images, labels, indices in batches:
                if isinstance(transform, PadCrop):
                    images = augmented(images, indices, transform, seed=seed, epoch=epoch)
                else:
                    images = normalized(images, indices, transform)
                yield Batch(images, labels, indices)

    def _placed(self, batches: Generator[list[torch.Tensor]]) -> Generator[list[torch.Tensor]]:
        """The batches on the device."""
        if self.device.type == "cpu":
            return batches
        self._copies = self._copies or CudaCopies(self.device)
        return on_device(batches, self._copies, self._reader.reuses_memory)

    def _with_labels(self, images_of: Iterator[torch.Tensor], order: np.ndarray) -> Generator[list[torch.Tensor]]:
        position = 0
        for images in images_of:
            indices = order[position : position + len(images)]
            position += len(images)
            labels = self._reader.beton.labels[indices]
            yield [images, torch.from_numpy(labels), torch.from_numpy(indices.copy())]


def picture_reader() -> str:
    """The reader of pictures here: "ffcv", or "pillow" if FFCV cannot be imported."""
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
