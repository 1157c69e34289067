"""Data sets that fit the device: the betons are read once, and all trainings map the same bytes."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sparselt.data.batch import Batch, EvalLoader, TrainLoader, drawn, normalized
from sparselt.data.beton import Beton
from sparselt.data.dataset import Dataset
from sparselt.data.manifest import SPLITS, Manifest
from sparselt.data.order import Shard, sample_order
from sparselt.data.transforms import Normalize, PadCrop
from sparselt.errors import DataError
from sparselt.files import naming_errors, replacing

_CHUNK_BYTES = 4 * 2**20  # augmented in one call: fits a cache, and is large enough to make the calls cheap
_CHUNKS_ON_GPU = 8  # in one call, because a launch is costly
_CACHE_BYTES = 256 * 2**20


def write_resident(dataset: Dataset, folder: Path | str) -> None:
    """Reads every beton once and writes train.safetensors and test.safetensors into `folder`.

    Each holds images uint8 [N, C, H, W] and labels int64 [N], in the betons' order, and the manifest. FFCV is not
    needed, because nothing is decoded. Raises a DataError for pictures; only arrays of one size will do.
    """
    _check_arrays(dataset)
    _write(Path(folder), dataset.manifest, ((split, *_read(dataset, split)) for split in SPLITS))


def write_held_out(resident: "ResidentData", folder: Path | str, count: int, seed: int) -> None:
    """Divides the training images: writes files as `write_resident` does, whose test split is `count` of them, drawn
    from `seed`, and whose training split is the others. Both keep the betons' order; the test images are not read.
    """
    order = sample_order(seed, 0, resident.count("train"))
    places = {"train": np.sort(order[count:]), "test": np.sort(order[:count])}
    record = resident.manifest.splits["train"]
    splits = {split: replace(record, count=len(chosen)) for split, chosen in places.items()}
    images, labels = resident.images("train").numpy(), resident.labels("train").numpy()
    parts = ((split, images[chosen], labels[chosen]) for split, chosen in places.items())
    _write(Path(folder), replace(resident.manifest, splits=splits), parts)


class ResidentData:
    """Both splits in memory: uint8 images and labels, read from betons or mapped from files of `write_resident`."""

    def __init__(self, manifest: Manifest, tensors: dict[str, dict[str, torch.Tensor]]):
        self.manifest, self._tensors = manifest, tensors
        self._placed: dict[tuple[str, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def open(cls, folder: Path | str) -> "ResidentData":
        """Maps the files into memory. Raises a DataError if one is missing or damaged, or they do not match."""
        from safetensors import SafetensorError, safe_open

        folder, manifests, tensors = Path(folder), {}, {}
        for split in SPLITS:
            path = folder / f"{split}.safetensors"
            try:
                with safe_open(path, framework="pt") as file:
                    manifests[split] = Manifest.from_json((file.metadata() or {}).get("manifest", ""), path)
                    tensors[split] = {name: file.get_tensor(name) for name in ("images", "labels")}
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path} cannot be read ({error}): make it again with write_resident") from error
            _check(path, manifests[split], split, tensors[split])
        if manifests["train"] != manifests["test"]:
            raise DataError(f"{folder} holds two splits of different data sets: make both again with write_resident")
        return cls(manifests["train"], tensors)

    @classmethod
    def read(cls, dataset: Dataset) -> "ResidentData":
        """Reads the betons into this process's memory. Raises a DataError for pictures; only arrays will do."""
        _check_arrays(dataset)
        read = {split: _read(dataset, split) for split in SPLITS}
        names = ("images", "labels")
        return cls(
            dataset.manifest,
            {split: dict(zip(names, map(torch.from_numpy, arrays), strict=True)) for split, arrays in read.items()},
        )

    @property
    def classes(self) -> int:
        return self.manifest.classes

    @property
    def synthetic(self) -> bool:
        return self.manifest.synthetic

    def count(self, split: str) -> int:
        return len(self.labels(split))

    def images(self, split: str) -> torch.Tensor:
        """uint8 [N, C, H, W]; not to be written to."""
        return self._of(split)["images"]

    def labels(self, split: str) -> torch.Tensor:
        """int64 [N]; not to be written to."""
        return self._of(split)["labels"]

    def on(self, split: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, labels) of a split on a device. They are copied there once and shared by all loaders."""
        if (split, device) not in self._placed:
            self._placed[split, device] = (self.images(split).to(device), self.labels(split).to(device))
        return self._placed[split, device]

    def _of(self, split: str) -> dict[str, torch.Tensor]:
        if split not in self._tensors:
            raise DataError(f"there is no split {split!r}: choose one of {', '.join(self._tensors)}")
        return self._tensors[split]


class ResidentTrainLoader(TrainLoader):
    """Training batches of data in memory, padded, cropped and flipped on the device."""

    def __init__(
        self,
        resident: ResidentData,
        batch_size: int,
        order_seed: int,
        augmentation_seed: int,
        transform: PadCrop,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
    ):
        _check_transform(resident, transform, PadCrop, "augment")
        count = resident.count("train")
        super().__init__(count, batch_size, order_seed, augmentation_seed, transform, device, shard)
        self._images, self._labels = resident.on("train", self.device)
        self._kept: torch.Tensor | None = None

    def _batches(self, steps: np.ndarray, epoch: int) -> Iterator[Batch]:
        # Several batches are augmented in one call and then cut apart: a sample's crop does not depend on its batch.
        order, share = torch.from_numpy(steps).to(self.device), self.share
        if not self.transform.padding and not self.transform.flip and 4 * self._images.numel() <= _CACHE_BYTES:
            yield from self._unchanged(order)
            return
        size = _CHUNK_BYTES * (_CHUNKS_ON_GPU if self.device.type != "cpu" else 1)
        at_once = max(1, size // (4 * self._images[0].numel() * share))
        for start in range(0, len(order), at_once):
            indices = order[start : start + at_once].reshape(-1)
            images = drawn(self._images, indices, self.transform, seed=self.augmentation_seed, epoch=epoch)
            yield from map(Batch, images.split(share), self._labels[indices].split(share), indices.split(share))

    def _unchanged(self, order: torch.Tensor) -> Iterator[Batch]:
        """Batches without shift or flip: every image is the same in each epoch, so it is normalised once and kept."""
        if self._kept is None:
            self._kept = normalized(self._images, torch.arange(self.count, device=self.device), self.transform)
        rows, shape = self._kept.permute(0, 2, 3, 1).flatten(1), self._kept.permute(0, 2, 3, 1).shape[1:]
        for indices in order:
            images = rows.index_select(0, indices).view(-1, *shape).permute(0, 3, 1, 2)
            yield Batch(images, self._labels.index_select(0, indices), indices)


class ResidentEvalLoader(EvalLoader):
    """A split in memory, normalized. Small splits are normalized once and kept."""

    def __init__(
        self,
        resident: ResidentData,
        transform: Normalize,
        batch_size: int,
        device: torch.device | str = "cpu",
        split: str = "test",
        shard: Shard | None = None,
        indices: np.ndarray | None = None,
    ):
        _check_transform(resident, transform, Normalize, "evaluate")
        super().__init__(resident.count(split), batch_size, transform, shard, indices)
        self.device = torch.device(device)
        self._indices = torch.from_numpy(self.indices).to(self.device)
        # A split that is read whole is not copied.
        places = slice(self.places.start, self.places.stop) if indices is None else self._indices
        self._images, self._labels = (tensor[places] for tensor in resident.on(split, self.device))
        self._kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is None and 4 * self._images.numel() <= _CACHE_BYTES:
            self._kept = list(self._batches())
        return iter(self._kept) if self._kept is not None else self._batches()

    def _batches(self) -> Iterator[Batch]:
        parts = (tensor.split(self.batch_size) for tensor in (self._images, self._labels, self._indices))
        for images, labels, indices in zip(*parts, strict=True):
            yield Batch(normalized(images, indices, self.transform), labels, indices)


def _write(folder: Path, manifest: Manifest, parts: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Writes a file for each (split, images, labels) of `parts`."""
    from safetensors.numpy import save

    with naming_errors(str(folder), DataError, "free space or choose another folder"), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        for split, images, labels in parts:
            partial = stack.enter_context(replacing(folder / f"{split}.safetensors"))
            metadata = {"manifest": manifest.to_json()}
            partial.write_bytes(save({"images": images, "labels": labels}, metadata=metadata))


def _read(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    beton = Beton(dataset.path(split))
    images = np.empty((len(beton), *dataset.record(split).array_shape), dtype=np.uint8)
    for index in range(len(beton)):
        images[index] = beton.image(index)
    return images, beton.labels


def _check_arrays(dataset: Dataset) -> None:
    if dataset.manifest.field != "ndarray":
        raise DataError(
            f"{dataset.folder} holds pictures, not fixed-size arrays: stream them with StreamingTrainLoader"
        )


def _check(path: Path, manifest: Manifest, split: str, tensors: dict[str, torch.Tensor]) -> None:
    record = manifest.splits[split]
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    expected = {
        "images": ((record.count, *record.array_shape), torch.uint8),
        "labels": ((record.count,), torch.int64),
    }
    if found != expected:
        raise DataError(f"{path} holds {found}, expected {expected}: make it again with write_resident")


def _check_transform(resident: ResidentData, transform: PadCrop | Normalize, kind: type, purpose: str) -> None:
    if not isinstance(transform, kind):
        raise DataError(f"{type(transform).__name__} cannot {purpose} resident images: give a {kind.__name__}")
    channels = resident.images("train").shape[1]
    if len(transform.mean) != channels:
        raise DataError(f"mean and std have {len(transform.mean)} channels, the images have {channels}")
