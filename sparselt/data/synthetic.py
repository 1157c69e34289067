"""Computed textures: what `SyntheticImages` shows."""

import math
from functools import cached_property

import numpy as np

from sparselt.data.beton import check_index

TEXTURE, SAMPLE, NOISE = 16, 17, 18  # Philox streams of this file
_WAVES = 3


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
    def _textures(self) -> list[tuple[np.ndarray, ...]]:
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
