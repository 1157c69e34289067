"""A folder of pictures in ImageNet's layout."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparselt.data.beton import check_index
from sparselt.data.sources.base import Source, UnreadableImage, check_quality, option, source
from sparselt.data.transforms import IMAGENET_MEAN, IMAGENET_STD, OF_IMAGENET, Normalize
from sparselt.errors import DataError, naming_extras

# The endings torchvision.datasets.ImageFolder takes, so that both readers see the same samples in the same order.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_LAYOUT = "expected <root>/train/<class>/* and <root>/val/<class>/*"


@source("imagenet")
@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder of pictures in ImageNet's layout: SOURCE/train/CLASS/* and SOURCE/val/CLASS/*; val is the test split.

    The defaults are those ffcv-imagenet gives for ResNet-50 (https://github.com/libffcv/ffcv-imagenet, README, "Dataset
    setup"; `write_imagenet.sh 500 0.50 90`): longer side at most 500 pixels, half of the pictures as JPEG of quality 90
    and the others as raw pixels. Which half is drawn from `seed`. Larger pictures are reduced by OpenCV's INTER_AREA.
    In ffcv-imagenet's words (write_imagenet.py): max_resolution, compress_probability (of write_mode "proportion"; 1 is
    "jpg", 0 "raw") and jpeg_quality.
    """

    root: str = option("The folder of pictures.", positional=True, metavar="SOURCE")
    max_resolution: int = option(
        "Longer side of a stored picture in pixels; larger ones are reduced, smaller ones are kept.", 500
    )
    jpeg_share: float = option(
        "Share of pictures stored as JPEG (1: all); the others are raw: larger, and read without decoding.",
        0.5,
        aliases=["--compress-probability"],
    )
    quality: int = option("JPEG quality, 1 to 100.", 90, aliases=["--jpeg-quality"])
    seed: int = option("Which pictures become JPEG.", 0)

    kind: ClassVar[str] = "imagefolder"
    field: ClassVar[str] = "rgb_image"
    image_shape: ClassVar[str] = "variable"
    normalization_from: ClassVar[str] = OF_IMAGENET

    def __post_init__(self):
        if self.max_resolution < 1:
            raise DataError(f"max_resolution {self.max_resolution} must be at least 1 pixel")
        if not 0 <= self.jpeg_share <= 1:
            raise DataError(f"jpeg_share {self.jpeg_share} must be in [0, 1]")
        check_quality(self.quality)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Alphabetical. DataError where the layout is not ImageNet's or the splits disagree on the classes."""
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: {_LAYOUT}")
        train, val = _class_names(root / "train"), _class_names(root / "val")
        if train != val:
            odd = sorted(set(train) ^ set(val))
            raise DataError(
                f"{root} has {len(train)} classes under train and {len(val)} under val; "
                f"only one of them has {', '.join(odd[:3])}: both must hold the same classes"
            )
        return train

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        return len(self.samples("train"))

    @property
    def test_count(self) -> int:
        return len(self.samples("test"))

    def samples(self, split: str) -> "FolderSamples":
        return self._listed[split]

    @cached_property
    def _listed(self) -> dict[str, "FolderSamples"]:
        root, names = Path(self.root), self.class_names
        return {"train": _list(root, "train", names), "test": _list(root, "val", names)}

    def normalization(self) -> Normalize:
        return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def describe(self) -> str:
        return (
            f"Pictures from the folder {Path(self.root).name}: {self.train_count:,} to train on and "
            f"{self.test_count:,} to test on, {self.classes} classes, longer side at most {self.max_resolution} "
            f"pixels, {self.jpeg_share:.0%} of them JPEG of quality {self.quality} and the others raw."
        )


class FolderSamples:
    """Pictures on disk, classes and files in alphabetical order; a sample is (uint8 [H, W, 3], label).

    A picture is named by its path below `root`. UnreadableImage where it cannot be decoded.
    """

    def __init__(self, root: Path, paths: list[str], labels: list[int]):
        self.root, self.paths, self.labels = root, paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return Path(self.paths[index]).relative_to(self.root).as_posix()

    @naming_extras()
    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        check_index(index, len(self), str(self.root))
        try:
            with Image.open(self.paths[index]) as picture:
                return np.asarray(picture.convert("RGB")), self.labels[index]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(
                f"{self.paths[index]} cannot be read as a picture ({error}): replace or remove it, or leave out all "
                f"such pictures with --skip-unreadable"
            ) from error


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {_LAYOUT}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise DataError(f"{folder} holds no class folders: {_LAYOUT}")
    return tuple(names)


def _list(root: Path, split_folder: str, class_names: tuple[str, ...]) -> FolderSamples:
    folder = root / split_folder
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(
            (parent, file)
            for parent, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(ENDINGS)
        )
        if not found:
            raise DataError(f"{folder / name} holds no pictures ({', '.join(ENDINGS)}): every class needs at least one")
        paths += [os.path.join(parent, file) for parent, file in found]
        labels += [label] * len(found)
    return FolderSamples(root, paths, labels)
