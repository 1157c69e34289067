"""The digits that scikit-learn ships: real images, small enough for every test."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparselt.data.order import sample_order
from sparselt.data.sources.base import Source, option, source
from sparselt.data.transforms import Normalize
from sparselt.errors import DataError, naming_extras


@source("digits")
@dataclass(frozen=True)
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; nothing is downloaded.

    One channel, uint8 from 0 to 16. They are the test set of UCI's Optical Recognition of Handwritten Digits
    (https://doi.org/10.24432/C50P49). The split is a shuffle by `split_seed`, not stratified: the first
    1,797 - test_count train, the others test.
    """

    test_count: int = option("Digits to test on; the others are trained on.", 500, name="test")
    split_seed: int = option("Which digits are which.", 0)

    kind: ClassVar[str] = "digits"
    classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    total: ClassVar[int] = 1797
    normalization_from: ClassVar[str] = "all pixels of the training split"

    def __post_init__(self):
        if not 1 <= self.test_count < self.total:
            raise DataError(f"test_count {self.test_count} must leave digits for both splits: 1 to {self.total - 1}")

    @property
    def train_count(self) -> int:
        return self.total - self.test_count

    @naming_extras()
    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        table = _table()
        order = sample_order(self.split_seed, 0, self.total)
        chosen = order[: self.train_count] if split == "train" else order[self.train_count :]
        return table[chosen, :-1].astype(np.uint8).reshape(-1, *self.image_shape), table[chosen, -1].astype(np.int64)

    def normalization(self) -> Normalize:
        """One mean and one standard deviation over all pixels of the training split."""
        pixels = self._held["train"].images.astype(np.float64) / 16
        return Normalize(mean=(float(pixels.mean()),), std=(float(pixels.std()),), scale=16.0)

    def describe(self) -> str:
        return (
            f"Real images: the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI Optical "
            f"Recognition of Handwritten Digits), {self.train_count:,} to train on and {self.test_count:,} to test on."
        )


def _table() -> np.ndarray:
    """The digits, [1797, 65] of float64: 64 pixels, row by row, and the label.

    They are read from scikit-learn's file without importing scikit-learn, which takes a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
