"""CIFAR-10, CIFAR-100 and MNIST, read by torchvision; downloaded where they are missing and there is a network."""

import contextlib
import hashlib
import os
import socket
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparselt.data.sources import ArraySamples
from sparselt.data.transforms import Normalize
from sparselt.errors import DataError

_TIMEOUT_SECONDS = 30

# MD5 of MNIST's four files after decompression: torchvision checks the compressed ones when it downloads them, and
# never the files it reads. Several public readers of MNIST, independent of each other, list these four.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def default_root() -> Path:
    """Where downloads are kept if nothing else is asked: $XDG_CACHE_HOME/sparselt or ~/.cache/sparselt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparselt"


@dataclass(frozen=True)
class _Downloaded:
    """What the three have in common.

    root: the folder that torchvision calls root; None is `default_root()`. Files that are missing there are downloaded
    into it. DataError where that fails, or where what is there is not the data set.
    """

    root: str | None = None

    synthetic: ClassVar[bool] = False
    field: ClassVar[str] = "ndarray"
    normalization_from: ClassVar[str] = "all pixels of the training split, a channel at a time"
    kind: ClassVar[str]
    title: ClassVar[str]
    reader: ClassVar[str]
    classes: ClassVar[int]
    image_shape: ClassVar[tuple[int, int, int]]
    train_count: ClassVar[int]
    test_count: ClassVar[int]

    @property
    def folder(self) -> Path:
        return default_root() if self.root is None else Path(self.root).expanduser()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._read["class_names"]

    def samples(self, split: str) -> ArraySamples:
        return self._read[split]

    def normalization(self) -> Normalize:
        """Mean and standard deviation of each channel over the training split."""
        means, deviations = [], []
        for channel in range(self.image_shape[0]):
            counts = np.bincount(self.samples("train").images[:, channel].reshape(-1), minlength=256)
            levels = np.arange(256) / 255
            mean = float(counts @ levels / counts.sum())
            means.append(mean)
            deviations.append(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
        return Normalize(mean=tuple(means), std=tuple(deviations))

    def describe(self) -> str:
        channels, height, width = self.image_shape
        return (
            f"Real images: {self.title}, {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{height} x {width} pixels, {channels} channel{'s' if channels > 1 else ''}, {self.classes} classes."
        )

    @cached_property
    def _read(self) -> dict:
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        self._download(reader)
        found: dict = {}
        try:
            for split in ("train", "test"):
                data = reader(str(self.folder), train=split == "train")
                found[split] = self._checked(split, self._arranged(np.asarray(data.data)), np.asarray(data.targets))
        except (RuntimeError, ValueError, OSError, EOFError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self.title} in {self.folder} cannot be read ({_line(error)}): remove it, to be downloaded again"
            ) from error
        return {**found, "class_names": self._names(data.classes)}

    def _download(self, reader) -> None:
        url, place = self._from(reader)
        try:
            if self._is_there(reader):
                return
            print(f"downloading {self.title} from {url} to {self.folder}", file=sys.stderr)
            self.folder.mkdir(parents=True, exist_ok=True)
            with _bounded_waiting():
                self._fetch(reader)
        except DataError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise DataError(
                f"{self.title} is not whole in {self.folder} and cannot be downloaded ({_line(error)}): fetch {url} "
                f"where there is a network and put it into {place}, or name the folder that holds it (--source)"
            ) from error

    def _checked(self, split: str, images: np.ndarray, labels: np.ndarray) -> ArraySamples:
        count = self.train_count if split == "train" else self.test_count
        found, expected = (images.shape, labels.shape), ((count, *self.image_shape), (count,))
        if found != expected or images.dtype != np.uint8:
            raise DataError(
                f"{self.folder} holds {split} images {images.shape} and labels {labels.shape} of {self.title}, "
                f"expected {expected[0]} and {expected[1]}: remove them, to be downloaded again"
            )
        return ArraySamples(np.ascontiguousarray(images), labels.astype(np.int64))


@dataclass(frozen=True)
class CIFAR10(_Downloaded):
    """CIFAR-10 (Krizhevsky 2009, Learning multiple layers of features from tiny images): 3 x 32 x 32, uint8.

    The split is the authors'. The files are pickles: torchvision compares their MD5 with those it knows before it
    reads them, so nothing unknown is unpickled.
    """

    kind: ClassVar[str] = "cifar10"
    title: ClassVar[str] = "CIFAR-10"
    reader: ClassVar[str] = "CIFAR10"
    classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    train_count: ClassVar[int] = 50_000
    test_count: ClassVar[int] = 10_000

    def _arranged(self, data: np.ndarray) -> np.ndarray:
        return data.transpose(0, 3, 1, 2)

    def _names(self, names) -> tuple[str, ...]:
        return tuple(names)

    def _from(self, reader) -> tuple[str, Path]:
        return reader.url, self.folder

    def _is_there(self, reader) -> bool:
        from torchvision.datasets.utils import check_integrity

        files = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
        return all(check_integrity(self.folder / reader.base_folder / name, md5) for name, md5 in files)

    def _fetch(self, reader) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(reader.url, str(self.folder), filename=reader.filename, md5=reader.tgz_md5)


@dataclass(frozen=True)
class CIFAR100(CIFAR10):
    """CIFAR-100 with its 100 fine classes; otherwise as `CIFAR10`."""

    kind: ClassVar[str] = "cifar100"
    title: ClassVar[str] = "CIFAR-100"
    reader: ClassVar[str] = "CIFAR100"
    classes: ClassVar[int] = 100


@dataclass(frozen=True)
class MNIST(_Downloaded):
    """MNIST (LeCun et al. 1998, Gradient-based learning applied to document recognition): 1 x 28 x 28, uint8."""

    kind: ClassVar[str] = "mnist"
    title: ClassVar[str] = "MNIST"
    reader: ClassVar[str] = "MNIST"
    classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    train_count: ClassVar[int] = 60_000
    test_count: ClassVar[int] = 10_000

    def _arranged(self, data: np.ndarray) -> np.ndarray:
        return data[:, np.newaxis]

    def _names(self, names) -> tuple[str, ...]:
        return tuple(name.split(" ")[0] for name in names)

    def _from(self, reader) -> tuple[str, Path]:
        return f"{reader.mirrors[0]}*.gz", self.folder / "MNIST" / "raw"

    def _is_there(self, reader) -> bool:
        if (self.folder / "MNIST" / "processed").exists():
            # torchvision would read that folder first, with torch.load.
            raise DataError(f"{self.folder / 'MNIST' / 'processed'} was made by an old torchvision: remove it")
        raw = self.folder / "MNIST" / "raw"
        if not all((raw / name).is_file() for name in MNIST_FILES):
            return False
        for name, md5 in MNIST_FILES.items():
            if hashlib.md5((raw / name).read_bytes(), usedforsecurity=False).hexdigest() != md5:
                raise DataError(f"{raw / name} is not MNIST's, by its MD5: remove it, to be downloaded again")
        return True

    def _fetch(self, reader) -> None:
        reader(str(self.folder), download=True)


@contextlib.contextmanager
def _bounded_waiting():
    """torchvision gives no time limit, so a network that answers nothing would hold it up for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
