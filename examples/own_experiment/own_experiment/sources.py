"""A data source of your own: a frozen dataclass that makes the images of both splits."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparselt.data import Digits, Source


@dataclass(frozen=True)
class TurnedDigits(Source):
    """scikit-learn's handwritten digits, turned by quarters of a full turn against the clock.

    quarters: 1 to 3; 2 puts the digits upside down.
    """

    quarters: int = 2

    classes: ClassVar[int] = Digits.classes
    image_shape: ClassVar[tuple[int, int, int]] = Digits.image_shape
    train_count: ClassVar[int] = Digits().train_count
    test_count: ClassVar[int] = Digits().test_count

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, 1, 8, 8] and labels [N] of "train" or "test"."""
        images, labels = Digits().arrays(split)
        return np.rot90(images, self.quarters, axes=(2, 3)), labels
