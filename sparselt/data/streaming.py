"""Data sets that do not fit the device: FFCV decodes and crops while the network trains."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sparselt.data import ffcv_bridge
from sparselt.data.batch import Batch, normalized
from sparselt.data.dataset import Dataset
from sparselt.data.order import batches_of, sample_order, steps_in
from sparselt.data.transforms import CenterCrop, RandomResizedCrop
from sparselt.errors import DataError


class StreamingTrainLoader:
    """Training batches of random resized crops; what sample i shows in epoch e depends on the seeds, e and i alone.

    dataset: of field "rgb_image". threads: decoding threads, at most Numba's. Only one streaming loader of a process
    can be iterated at a time. The compilation (seconds) happens at the first batch and once a process.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        order_seed: int,
        augmentation_seed: int,
        transform: RandomResizedCrop,
        device: torch.device | str = "cpu",
        threads: int = 1,
    ):
        if not isinstance(transform, RandomResizedCrop):
            raise DataError(f"{type(transform).__name__} cannot stream training images: give a RandomResizedCrop")
        self.batch_size, self.transform = batch_size, transform
        self.order_seed, self.augmentation_seed = order_seed, augmentation_seed
        self.count = dataset.count("train")
        self.steps_per_epoch = steps_in(self.count, batch_size)
        self._stream = _Stream(dataset, "train", batch_size, transform, device, threads)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The whole batches of this epoch from `start_step` on; nothing before it is decoded."""
        steps = batches_of(sample_order(self.order_seed, epoch, self.count), self.batch_size, start_step)
        return self._stream.batches(steps.reshape(-1), self.augmentation_seed, epoch)


class StreamingEvalLoader:
    """Every sample of a split exactly once, in the order of the beton, centre-cropped and never augmented."""

    def __init__(
        self,
        dataset: Dataset,
        transform: CenterCrop,
        batch_size: int,
        device: torch.device | str = "cpu",
        threads: int = 1,
        split: str = "test",
    ):
        if not isinstance(transform, CenterCrop):
            raise DataError(f"{type(transform).__name__} cannot evaluate streamed images: give a CenterCrop")
        self.count = dataset.count(split)
        self.batch_size, self.transform = min(batch_size, self.count), transform
        steps_in(self.count, self.batch_size)
        self._stream = _Stream(dataset, split, self.batch_size, transform, device, threads)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(np.arange(self.count, dtype=np.int64))


class _Stream:
    """FFCV's loader of one split under one transform, made at first use."""

    def __init__(self, dataset: Dataset, split: str, batch_size: int, transform, device, threads: int):
        if dataset.manifest.field != "rgb_image":
            raise DataError(
                f"{dataset.folder} holds fixed-size arrays, which are not streamed: use write_resident and a resident "
                f"loader"
            )
        ffcv_bridge.require_ffcv()
        self.path: Path = dataset.path(split)
        self.batch_size, self.transform = batch_size, transform
        self.device, self.threads = torch.device(device), ffcv_bridge.usable_threads(threads)
        self._loader = self._labels = self._copies = None

    def batches(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        from sparselt.data.decoder import key_filler, make_decoder

        if self._loader is None:
            self._loader = ffcv_bridge.make_loader(
                self.path, self.batch_size, self.threads, make_decoder(self.transform)
            )
            self._labels = ffcv_bridge.labels_of(self._loader)
        images_of = ffcv_bridge.iterate(self._loader, order, key_filler(self.transform, seed, epoch))
        try:
            position = 0
            for images in images_of:
                indices = order[position : position + len(images)]
                position += len(images)
                yield self._batch(images, indices)
        finally:
            images_of.close()

    def _batch(self, images: np.ndarray, indices: np.ndarray) -> Batch:
        tensors = [torch.from_numpy(array) for array in (images, self._labels[indices], indices.copy())]
        if self.device.type == "cuda":
            tensors = self._copied(tensors)
        pixels, labels, places = tensors
        images = normalized(pixels.permute(0, 3, 1, 2), places, self.transform)
        return Batch(images, labels, places)

    def _copied(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        # The buffer is written again soon: wait for these copies alone, not for the training steps queued before them.
        self._copies = self._copies or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            copied = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        self._copies.synchronize()
        for tensor in copied:
            tensor.record_stream(torch.cuda.current_stream(self.device))
        return copied
