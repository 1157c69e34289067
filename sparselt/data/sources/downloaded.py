"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, read by torchvision; downloaded if missing and there is a network."""

import contextlib
import gzip
import hashlib
import os
import socket
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparselt.data.sources.base import Source, option, source
from sparselt.errors import DataError, naming_extras

_TIMEOUT_SECONDS = 30

# MD5 of MNIST's four files after decompression: torchvision checks the compressed ones when it downloads them, and
# never the files it reads. Several public readers of MNIST, independent of each other, list these four.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# The same of Fashion-MNIST. Debian's package holds files with these MD5, too; it compresses them in its own way.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""


@dataclass(frozen=True)
class _Downloaded(Source):
    """The common part of the four. reader: the class of torchvision.datasets that reads the files.

    Raises a DataError if a download fails, or if the files found are not those of the data set.
    """

    root: str | None = option(
        "Folder of torchvision's files; what is missing is downloaded into it (default: ~/.cache/sparselt).",
        None,
        name="source",
        metavar="DIR",
    )

    title: ClassVar[str]
    reader: ClassVar[str]
    image_shape: ClassVar[tuple[int, int, int]]

    @property
    def folder(self) -> Path:
        """The folder that torchvision calls root; default: $XDG_CACHE_HOME/sparselt or ~/.cache/sparselt."""
        if self.root is not None:
            return Path(self.root).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparselt"

    @property
    def remedy(self) -> str:
        return f"remove {self.title} in {self.folder}, to be downloaded again"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name.partition(" - ")[0] for name in self._splits["train"].classes)  # MNIST's are "0 - zero"

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        data = self._splits[split]
        channels, height, width = self.image_shape
        images = np.asarray(data.data).reshape(-1, height, width, channels)
        return images.transpose(0, 3, 1, 2), np.asarray(data.targets)

    def describe(self) -> str:
        channels, height, width = self.image_shape
        return (
            f"Real images: {self.title}, {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{height} x {width} pixels, {channels} channel{'s' if channels != 1 else ''}, {self.classes} classes."
        )

    @cached_property
    @naming_extras()
    def _splits(self) -> dict[str, Any]:
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        url, place = self._from(reader)
        with self._naming(
            f"is not whole in {self.folder} and cannot be downloaded",
            f"fetch {url} where there is a network and put it into {place}, or name the folder that has it (--source)",
        ):
            if not self._is_there(reader):
                print(f"downloading {self.title} from {url} to {self.folder}", file=sys.stderr)
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    with _bounded_waiting():
                        reader(str(self.folder), download=True)
                except BaseException:
                    _remove_empty(self.folder)
                    raise
        with self._naming(f"in {self.folder} cannot be read", "remove it, to be downloaded again"):
            return {split: reader(str(self.folder), train=split == "train") for split in ("train", "test")}

    @contextlib.contextmanager
    def _naming(self, what: str, advice: str):
        """Turns torchvision's errors in the block into a DataError of one line."""
        try:
            yield
        except DataError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise DataError(f"{self.title} {what} ({' '.join(str(error).split())}): {advice}") from error

    def _from(self, reader: Any) -> tuple[str, Path]:
        """The URL of the files, and the folder for files that are fetched by hand."""
        raise NotImplementedError

    def _is_there(self, reader: Any) -> bool:
        raise NotImplementedError


@source("cifar10")
@dataclass(frozen=True)
class CIFAR10(_Downloaded):
    """CIFAR-10: 50,000 and 10,000 images of 32 x 32 pixels, 10 classes (170 MB to download).

    Krizhevsky 2009, Learning multiple layers of features from tiny images: 3 x 32 x 32, uint8. The split is the
    authors'. The files are pickles: torchvision compares their MD5 with those it knows before it reads them, so nothing
    unknown is unpickled.
    """

    kind: ClassVar[str] = "cifar10"
    title: ClassVar[str] = "CIFAR-10"
    reader: ClassVar[str] = "CIFAR10"
    classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    train_count: ClassVar[int] = 50_000
    test_count: ClassVar[int] = 10_000

    def _from(self, reader: Any) -> tuple[str, Path]:
        return reader.url, self.folder

    def _is_there(self, reader: Any) -> bool:
        from torchvision.datasets.utils import check_integrity

        files = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
        return all(check_integrity(self.folder / reader.base_folder / name, md5) for name, md5 in files)


@source("cifar100")
@dataclass(frozen=True)
class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 and 10,000 images of 32 x 32 pixels, 100 classes (169 MB to download).

    The 100 fine classes; otherwise as `CIFAR10`.
    """

    kind: ClassVar[str] = "cifar100"
    title: ClassVar[str] = "CIFAR-100"
    reader: ClassVar[str] = "CIFAR100"
    classes: ClassVar[int] = 100


@source("mnist")
@dataclass(frozen=True)
class MNIST(_Downloaded):
    """MNIST: 60,000 and 10,000 images of 28 x 28 pixels, 10 classes (12 MB to download).

    LeCun et al. 1998, Gradient-based learning applied to document recognition: 1 x 28 x 28, uint8.
    """

    kind: ClassVar[str] = "mnist"
    title: ClassVar[str] = "MNIST"
    reader: ClassVar[str] = "MNIST"
    files: ClassVar[Mapping[str, str]] = MNIST_FILES
    classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    train_count: ClassVar[int] = 60_000
    test_count: ClassVar[int] = 10_000

    def _from(self, reader: Any) -> tuple[str, Path]:
        return f"{reader.mirrors[0]}*.gz", self.folder / self.reader / "raw"

    def _is_there(self, reader: Any) -> bool:
        processed = self.folder / self.reader / "processed"
        if processed.exists():
            # torchvision would read that folder first, with torch.load.
            raise DataError(f"{processed} was made by an old torchvision: remove it")
        raw = self.folder / self.reader / "raw"
        if not all((raw / name).is_file() for name in self.files):
            return False
        for name in self.files:
            self._check_file(raw / name, name, (raw / name).read_bytes(), "remove it, to be downloaded again")
        return True

    def _check_file(self, path: Path, name: str, data: bytes, advice: str) -> None:
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != self.files[name]:
            raise DataError(f"{path} is not {self.title}'s, by its MD5: {advice}")


@source("fashion_mnist")
@dataclass(frozen=True)
class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 and 10,000 images of 28 x 28 pixels, 10 classes (31 MB to download), MIT licence.

    Xiao et al. 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms: 1 x 28 x 28,
    uint8. Without `root`, and if Debian's package `dataset-fashion-mnist` is installed, its files are read, and nothing
    is downloaded.
    """

    kind: ClassVar[str] = "fashion_mnist"
    title: ClassVar[str] = "Fashion-MNIST"
    reader: ClassVar[str] = "FashionMNIST"
    files: ClassVar[Mapping[str, str]] = FASHION_MNIST_FILES

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        if self.root is not None or not DEBIAN_FASHION_MNIST.is_dir():
            return super().arrays(split)
        prefix = "train" if split == "train" else "t10k"
        images, labels = (self._packaged(f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        # The files begin with their sizes, in 16 and in 8 bytes.
        return images[16:].reshape(-1, *self.image_shape), labels[8:]

    @property
    @naming_extras()
    def class_names(self) -> tuple[str, ...]:
        from torchvision import datasets

        return tuple(datasets.FashionMNIST.classes)

    def _packaged(self, name: str) -> np.ndarray:
        """The bytes of a file of Debian's package, after decompression."""
        path = DEBIAN_FASHION_MNIST / f"{name}.gz"
        advice = "install the package again (apt-get install --reinstall dataset-fashion-mnist)"
        try:
            data = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read ({error}): {advice}") from error
        self._check_file(path, name, data, advice)
        return np.frombuffer(data, np.uint8)


def _remove_empty(folder: Path) -> None:
    """Removes a folder and those in it, as far as they hold no file."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(place)


@contextlib.contextmanager
def _bounded_waiting():
    """Sets a time limit for the block; without one, torchvision waits minutes for a network that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
