"""A folder of pictures as small squares, for settings that keep all pixels in memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from sparselt.data.sources.base import Source, option, source
from sparselt.data.sources.folder import FolderSamples, ImageFolder
from sparselt.data.transforms import IMAGENET_MEAN, IMAGENET_STD, OF_IMAGENET, Normalize
from sparselt.errors import DataError


@source("pictures")
@dataclass(frozen=True)
class Pictures(Source):
    """A folder of pictures in ImageNet's layout as squares of one size, which every setting of small images takes.

    The largest square in the middle of each picture is reduced or enlarged to `side` pixels (Pillow, bicubic) and
    stored as raw pixels: uint8 [3, side, side], or [1, side, side] in shades of gray.
    """

    root: str = option(
        "The folder of pictures: SOURCE/train/CLASS/*, SOURCE/val/CLASS/*.", positional=True, metavar="SOURCE"
    )
    side: int = option("Side of a stored picture in pixels, as the setting's train_size.", 32)
    gray: bool = option("Store one channel instead of three.", False)

    kind: ClassVar[str] = "pictures"
    normalization_from: ClassVar[str] = OF_IMAGENET

    def __post_init__(self):
        if self.side < 1:
            raise DataError(f"side {self.side} must be at least 1 pixel")

    @cached_property
    def _folder(self) -> ImageFolder:
        return ImageFolder(self.root)

    @property
    def classes(self) -> int:
        return self._folder.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._folder.class_names

    @property
    def train_count(self) -> int:
        return self._folder.train_count

    @property
    def test_count(self) -> int:
        return self._folder.test_count

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1 if self.gray else 3, self.side, self.side

    def samples(self, split: str) -> "Squares":
        return Squares(self._folder.samples(split), self.image_shape)

    def normalization(self) -> Normalize:
        """Statistics of ImageNet; in shades of gray the means over its channels."""
        if not self.gray:
            return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return Normalize(mean=(sum(IMAGENET_MEAN) / 3,), std=(sum(IMAGENET_STD) / 3,))

    def describe(self) -> str:
        return (
            f"Pictures from a folder, {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{self.classes} classes, as squares of {self.side} pixels{', in shades of gray' if self.gray else ''}."
        )


class Squares:
    """The samples of a folder as uint8 [C, side, side]. UnreadableImage where a picture cannot be decoded."""

    def __init__(self, pictures: FolderSamples, shape: tuple[int, int, int]):
        self.pictures, self.shape, self.name = pictures, shape, pictures.name

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        pixels, label = self.pictures[index]
        channels, side, _ = self.shape
        edge = min(pixels.shape[:2])
        top, left = ((length - edge) // 2 for length in pixels.shape[:2])
        middle = Image.fromarray(pixels[top : top + edge, left : left + edge])
        picture = middle.resize((side, side), Image.Resampling.BICUBIC)
        found = np.asarray(picture if channels == 3 else picture.convert("L"))
        return np.ascontiguousarray(found.reshape(side, side, channels).transpose(2, 0, 1)), label
