"""Made-up images that can be learned: computed textures, for tests, smoke runs and benchmarks."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from sparselt.data.beton import LARGEST_PAGE, check_index
from sparselt.data.sources.base import Source, check_quality, option, source
from sparselt.data.transforms import IMAGENET_MEAN, IMAGENET_STD, OF_IMAGENET, Normalize
from sparselt.errors import DataError

TEXTURE, SAMPLE, NOISE = 16, 17, 18  # Philox streams of this file
_WAVES = 3
_LONGEST_JPEG = 65_500  # libjpeg's JPEG_MAX_DIMENSION


@source("synthetic")
@dataclass(frozen=True)
class SyntheticImages(Source):
    """Made-up images with a texture for each class, of any count and size; nothing is downloaded.

    Each class is a texture of three coloured waves; each sample shifts the waves of its class. A sample depends on
    (seed, split, index) alone. difficulty in [0, 1) is the share of noise: near 0 the mean colour tells the classes
    apart, near 1 little of the texture is left. storage "jpeg" writes pictures of 3 channels, "raw" arrays [C, H, W] of
    any number of channels.
    """

    train_count: int = option("Training images.", 10_000, name="train")
    test_count: int = option("Test images.", 1_000, name="test")
    classes: int = option("Number of classes.", 10)
    height: int = option("Pixels.", 96)
    width: int = option("Pixels.", 112)
    channels: int = option("Colours; other than 3 only with --storage raw.", 3)
    difficulty: float = option("Share of noise, in [0, 1).", 0.4)
    seed: int = option("Which images.", 0)
    storage: Literal["jpeg", "raw"] = option(
        "jpeg: pictures to be streamed, as ImageNet's; raw: arrays to be kept in memory, as CIFAR's.", "jpeg"
    )
    quality: int = option("JPEG quality, 1 to 100.", 90)

    kind: ClassVar[str] = "synthetic"
    synthetic: ClassVar[bool] = True

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
        check_quality(self.quality)

    @property
    def field(self) -> str:
        return "rgb_image" if self.storage == "jpeg" else "ndarray"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def samples(self, split: str) -> "SyntheticSamples":
        return SyntheticSamples(self, split)

    def normalization(self) -> Normalize:
        if self.channels == 3:
            return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return Normalize(mean=(0.5,) * self.channels, std=(0.25,) * self.channels)

    @property
    def normalization_from(self) -> str:
        return OF_IMAGENET if self.channels == 3 else "fixed values near those of these textures"

    def describe(self) -> str:
        return (
            f"Synthetic images, not real ones: {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{self.width} x {self.height} pixels, {self.classes} classes of computed textures. They exercise the "
            f"code; their errors say nothing about any real data set."
        )


class SyntheticSamples:
    """One split of a `SyntheticImages`; sample i has label i modulo the number of classes. SampleIndexError outside."""

    def __init__(self, source, split: str):
        self.source = source
        self.count = source.train_count if split == "train" else source.test_count
        self.first = 0 if split == "train" else 2**31  # the splits share no counter, hence no sample

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"sample {index}"

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """(uint8 image, label); the image is [C, H, W] for raw storage and [H, W, C] for JPEG."""
        source = self.source
        check_index(index, self.count, "the split")
        label = index % source.classes
        cycles, direction, colours, base = self._textures[label]
        phases, brightness = self._sample(self.first + index)
        wave_y, wave_x = cycles * np.sin(direction), cycles * np.cos(direction)
        rows = np.linspace(0, 2 * math.pi, source.height, endpoint=False, dtype=np.float32)[:, None]
        columns = np.linspace(0, 2 * math.pi, source.width, endpoint=False, dtype=np.float32)[None, :]
        signal = np.zeros((source.height, source.width, source.channels), dtype=np.float32)
        for wave in range(_WAVES):
            plane = np.cos(rows * wave_y[wave] + columns * wave_x[wave] + phases[wave])
            signal += plane[:, :, None] * colours[wave]
        clean = 0.5 + 0.5 * base + 0.2 * signal + brightness
        mixed = (1 - source.difficulty) * clean + source.difficulty * self._noise(self.first + index)
        image = np.clip(mixed * 255, 0, 255).astype(np.uint8)
        return (image if source.storage == "jpeg" else np.ascontiguousarray(image.transpose(2, 0, 1))), label

    @cached_property
    def _textures(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For each class: cycles across the image, directions, colours [waves, C] and the mean colour [C]."""
        channels = self.source.channels
        textures = []
        for label in range(self.source.classes):
            draws = self._draws(label, TEXTURE, 2 * _WAVES + channels * (_WAVES + 1))
            waves, colours = draws[: 2 * _WAVES], draws[2 * _WAVES :].reshape(_WAVES + 1, channels)
            cycles = (2 + 6 * waves[:_WAVES]).astype(np.float32)
            direction = (math.pi * waves[_WAVES:]).astype(np.float32)
            colours = (2 * colours - 1).astype(np.float32)
            textures.append((cycles, direction, colours[:_WAVES], 0.5 * colours[_WAVES]))
        return textures

    def _sample(self, position: int) -> tuple[np.ndarray, float]:
        draws = self._draws(position, SAMPLE, _WAVES + 1)
        return (2 * math.pi * draws[:_WAVES]).astype(np.float32), float(0.2 * draws[_WAVES] - 0.1)

    def _noise(self, position: int) -> np.ndarray:
        """Noise in [0, 1), [H, W, C], in squares of 2 x 2 pixels: they survive JPEG better than single pixels."""
        height, width, channels = self.source.height, self.source.width, self.source.channels
        shape = ((height + 1) // 2, (width + 1) // 2, channels)
        coarse = self._draws(position, NOISE, math.prod(shape)).astype(np.float32).reshape(shape)
        return coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]

    def _draws(self, position: int, stream: int, count: int) -> np.ndarray:
        """`count` float64 numbers in [0, 1)."""
        from sparselt.kernels.philox import key_of, philox4x32

        counters = np.zeros(((count + 3) // 4, 4), dtype=np.int64)
        counters[:, 0], counters[:, 2], counters[:, 3] = position, stream, np.arange(len(counters))
        return philox4x32(counters, *key_of(self.source.seed)).reshape(-1)[:count] * 2.0**-32
