"""Where images come from: frozen dataclasses whose fields are JSON, and which can produce every sample of either split.

Each source has: kind, synthetic, field ("ndarray": fixed-size arrays [C, H, W], "rgb_image": pictures FFCV may
compress), classes, class_names, image_shape ((C, H, W) or "variable"), train_count, test_count, normalization(),
normalization_from, describe() and samples(split), an indexable of (image, label). CIFAR and MNIST are in
`sparselt.data.downloaded`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparselt.data.beton import LARGEST_PAGE, check_index
from sparselt.data.order import sample_order
from sparselt.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize
from sparselt.errors import DataError

SPLITS = ("train", "test")
_OF_IMAGENET = "ImageNet's training images, as torchvision states them"
_LONGEST_JPEG = 65_500  # libjpeg's JPEG_MAX_DIMENSION


def source_record(source) -> dict:
    """The source as JSON: its kind and every field."""
    return {"kind": source.kind, **asdict(source)}


def source_from_record(record: Mapping):
    """The source that `source_record` turned into `record`. DataError for one that it did not."""
    from sparselt.data.downloaded import CIFAR10, CIFAR100, MNIST

    kinds = {source.kind: source for source in (Digits, CIFAR10, CIFAR100, MNIST, ImageFolder, SyntheticImages)}
    fields = dict(record)
    try:
        return kinds[fields.pop("kind")](**fields)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{dict(record)} is not a source of this sparselt ({error}): expected one of {', '.join(kinds)}"
        ) from error


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, one channel, uint8 from 0 to 16.

    They are the test set of UCI's Optical Recognition of Handwritten Digits (https://doi.org/10.24432/C50P49). The
    split is a shuffle by `split_seed`, not stratified: the first 1,797 - test_count train, the others test.
    """

    test_count: int = 500
    split_seed: int = 0

    kind: ClassVar[str] = "digits"
    synthetic: ClassVar[bool] = False
    field: ClassVar[str] = "ndarray"
    classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    total: ClassVar[int] = 1797
    normalization_from: ClassVar[str] = "all pixels of the training split"

    def __post_init__(self):
        if not 1 <= self.test_count < self.total:
            raise DataError(f"test_count {self.test_count} must leave digits for both splits: 1 to {self.total - 1}")

    @property
    def train_count(self) -> int:
        return self.total - self.test_count

    def samples(self, split: str):
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = sample_order(self.split_seed, 0, self.total)
        chosen = order[: self.train_count] if split == "train" else order[self.train_count :]
        images = digits.images.astype(np.uint8)[:, np.newaxis]
        return ArraySamples(images[chosen], digits.target.astype(np.int64)[chosen])

    def normalization(self) -> Normalize:
        """One mean and one standard deviation over all pixels of the training split."""
        pixels = self.samples("train").images.astype(np.float64) / 16
        return Normalize(mean=(float(pixels.mean()),), std=(float(pixels.std()),), scale=16.0)

    def describe(self) -> str:
        return (
            f"Real images: the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI Optical "
            f"Recognition of Handwritten Digits), {self.train_count:,} to train on and {self.test_count:,} to test on."
        )


@dataclass(frozen=True)
class SyntheticImages:
    """Learnable images made on the spot: each class is a texture of three coloured waves, which each sample shifts.

    A function of (seed, split, sample) alone. difficulty in [0, 1) is the share of noise: near 0 the mean colour tells
    the classes apart, near 1 little of the texture is left. storage "jpeg" writes pictures of 3 channels, "raw" arrays
    [C, H, W] of any.
    """

    train_count: int
    test_count: int
    classes: int
    height: int
    width: int
    channels: int = 3
    difficulty: float = 0.4
    seed: int = 0
    storage: str = "jpeg"
    quality: int = 90

    kind: ClassVar[str] = "synthetic"
    synthetic: ClassVar[bool] = True
    jpeg_share: ClassVar[float] = 1.0
    max_resolution: ClassVar[None] = None

    def __post_init__(self):
        for name in ("train_count", "test_count", "height", "width", "channels"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} {getattr(self, name)} must be at least 1")
        if self.classes < 2:
            raise DataError(f"classes {self.classes} must be at least 2")
        if self.storage not in ("jpeg", "raw"):
            raise DataError(f"storage {self.storage!r} is unknown: choose 'jpeg' or 'raw'")
        if self.storage == "jpeg" and self.channels != 3:
            raise DataError(f"{self.channels} channels cannot be stored as jpeg: it takes 3, raw any number")
        if self.storage == "jpeg" and max(self.height, self.width) > _LONGEST_JPEG:
            raise DataError(f"{self.width} x {self.height} pixels do not fit a JPEG: at most {_LONGEST_JPEG} a side")
        if self.channels * self.height * self.width > LARGEST_PAGE:
            raise DataError(
                f"{self.channels} x {self.height} x {self.width} pixels do not fit a beton: at most {LARGEST_PAGE:,} "
                f"bytes an image"
            )
        if not 0 <= self.difficulty < 1:
            raise DataError(f"difficulty {self.difficulty} must be in [0, 1)")
        _check_quality(self.quality)

    @property
    def field(self) -> str:
        return "rgb_image" if self.storage == "jpeg" else "ndarray"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(label) for label in range(self.classes))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def samples(self, split: str):
        from sparselt.data.synthetic import SyntheticSamples

        return SyntheticSamples(self, split)

    def normalization(self) -> Normalize:
        if self.channels == 3:
            return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return Normalize(mean=(0.5,) * self.channels, std=(0.25,) * self.channels)

    @property
    def normalization_from(self) -> str:
        return _OF_IMAGENET if self.channels == 3 else "fixed values near those of these textures"

    def describe(self) -> str:
        return (
            f"Synthetic images, not real ones: {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{self.width} x {self.height} pixels, {self.classes} classes of computed textures. They exercise the "
            f"code; their errors say nothing about any real data set."
        )


@dataclass(frozen=True)
class ImageFolder:
    """Pictures in ImageNet's layout: root/train/<class>/* and root/val/<class>/*; val becomes the test split.

    The defaults are those ffcv-imagenet gives for ResNet-50 (https://github.com/libffcv/ffcv-imagenet, README, "Dataset
    setup"): longer side at most 500 pixels, half of the pictures as JPEG of quality 90 and the others as raw pixels.
    Which half is drawn from `seed`. Larger pictures are reduced by OpenCV's INTER_AREA. In ffcv-imagenet's words
    (write_imagenet.py): max_resolution, compress_probability (of write_mode "proportion"; 1 is "jpg", 0 "raw") and
    jpeg_quality.
    """

    root: str
    max_resolution: int = 500
    jpeg_share: float = 0.5
    quality: int = 90
    seed: int = 0

    kind: ClassVar[str] = "imagefolder"
    synthetic: ClassVar[bool] = False
    field: ClassVar[str] = "rgb_image"
    image_shape: ClassVar[str] = "variable"
    normalization_from: ClassVar[str] = _OF_IMAGENET

    def __post_init__(self):
        if self.max_resolution < 1:
            raise DataError(f"max_resolution {self.max_resolution} must be at least 1 pixel")
        if not 0 <= self.jpeg_share <= 1:
            raise DataError(f"jpeg_share {self.jpeg_share} must be in [0, 1]")
        _check_quality(self.quality)

    @cached_property
    def _scan(self):
        from sparselt.data.folder import scan

        return scan(Path(self.root))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._scan.class_names

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        return len(self.samples("train"))

    @property
    def test_count(self) -> int:
        return len(self.samples("test"))

    def samples(self, split: str):
        return self._scan.splits[split]

    def normalization(self) -> Normalize:
        return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def describe(self) -> str:
        return (
            f"Pictures from the folder {Path(self.root).name}: {self.train_count:,} to train on and "
            f"{self.test_count:,} to test on, {self.classes} classes, longer side at most {self.max_resolution} "
            f"pixels, {self.jpeg_share:.0%} of them JPEG of quality {self.quality} and the others raw."
        )


class ArraySamples:
    """Samples that are in memory: images uint8 [N, C, H, W], labels int64 [N]. SampleIndexError outside of them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        check_index(index, len(self), "the split")
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        return f"sample {index}"


def _check_quality(quality: int) -> None:
    if not 1 <= quality <= 100:
        raise DataError(f"JPEG quality {quality} must be 1 to 100")
