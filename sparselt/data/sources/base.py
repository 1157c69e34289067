"""The base class of all sources of images, and the samples that they give."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from sparselt.data.beton import check_index
from sparselt.data.transforms import Normalize
from sparselt.errors import DataError
from sparselt.own import called

SourceClass = TypeVar("SourceClass", bound=type)
Shape = tuple[int, int, int] | str
"""(C, H, W), or \"variable\" for pictures of every size."""

SOURCES: dict[str, type] = {}
"""The sources of this folder by the name that `sparselt data write` knows them by."""


def source(name: str):
    """Decorates the dataclass of a source in this folder: registers it under the name for the command line."""

    def register(cls: SourceClass) -> SourceClass:
        SOURCES[name] = cls
        return cls

    return register


def option(
    help: str, default: Any = dataclasses.MISSING, *, name: str | None = None, aliases: Sequence[str] = (), **more: Any
) -> Any:
    """A field of a source that is an option of `sparselt data write`.

    Args:
        help: its help on the command line.
        default: its default value; without one, the option is required.
        name: the option's name; default: the field's.
        aliases: further names, such as `--jpeg-quality`.
        more: metavar, the word for the value in the help; positional=True makes it an argument without a name.
    """
    metadata = {"help": help, "name": name, "aliases": tuple(aliases), **more}
    return dataclasses.field(default=default, metadata=metadata)


class Samples(Protocol):
    """The samples of a split: (image, label) by index, and a name of each for error messages.

    An image is uint8: [C, H, W] of an array, [H, W, 3] of a picture.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]: ...

    def name(self, index: int, /) -> str: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of images: a frozen dataclass that makes every sample of both splits. Its fields must be JSON.

    A source of your own sets `classes`, `image_shape`, `train_count` and `test_count`. It defines `arrays`, or, for
    pictures, `samples` and `normalization`. Everything else has defaults.

    Attributes:
        kind: the name in records; for a source of your own, the reference to its class.
        field: "ndarray" for fixed-size arrays [C, H, W], "rgb_image" for pictures, which may be stored as JPEG.
        classes, class_names: how many classes there are, and what they are called.
        image_shape: (C, H, W), or "variable" where every picture has its own size.
        train_count, test_count: images of each split.
        synthetic: whether the images are made up; reports say so.
        normalization_from: the images whose mean and standard deviation `normalization` gives.
        max_resolution: longer side in pixels to which pictures are reduced; None: as they are.
        jpeg_share, quality, seed: the share of pictures stored as JPEG, its quality, and which ones.
        remedy: advice, in the error message, if the arrays differ from what the source states.
    """

    if TYPE_CHECKING:  # properties to a type checker, so that subclasses may have fields, class variables or properties

        @property
        def field(self) -> str: ...
        @property
        def classes(self) -> int: ...
        @property
        def class_names(self) -> tuple[str, ...]: ...
        @property
        def image_shape(self) -> Shape: ...
        @property
        def train_count(self) -> int: ...
        @property
        def test_count(self) -> int: ...
        @property
        def normalization_from(self) -> str: ...
        @property
        def max_resolution(self) -> int | None: ...
        @property
        def jpeg_share(self) -> float: ...
        @property
        def quality(self) -> int: ...
        @property
        def seed(self) -> int: ...
        @property
        def remedy(self) -> str: ...

    else:
        field, jpeg_share, quality, seed, max_resolution = "ndarray", 1.0, 90, 0, None
        normalization_from = "all pixels of the training split, a channel at a time"
        remedy = "correct the source"
        class_names = property(lambda self: tuple(str(label) for label in range(self.classes)))

    kind: ClassVar[str] = "own"
    synthetic: ClassVar[bool] = False

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, C, H, W] and labels [N], whole numbers from 0, of "train" or "test"."""
        raise NotImplementedError("the source defines no arrays(split), which returns images and labels")

    def samples(self, split: str) -> Samples:
        """The samples of "train" or "test", in the order in which they are written."""
        return self._held[split]

    def normalization(self) -> Normalize:
        """Mean and standard deviation of each channel over the training split."""
        means, deviations = [], []
        levels = np.arange(256) / 255
        for channel in self._held["train"].images.swapaxes(0, 1):
            counts = np.bincount(channel.reshape(-1), minlength=256)
            mean = float(counts @ levels / counts.sum())
            means.append(mean)
            deviations.append(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
        return Normalize(mean=tuple(means), std=tuple(deviations))

    def describe(self) -> str:
        """One sentence: what the images show, and how many there are."""
        return (
            f"Images of {type(self).__name__}, {self.train_count:,} to train on and {self.test_count:,} to test on, "
            f"{self.classes} classes."
        )

    @cached_property
    def _held(self) -> dict[str, "ArraySamples"]:
        return {split: self._checked(split, *self._arrays(split)) for split in ("train", "test")}

    def _arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        if self.kind != "own":
            return self.arrays(split)
        what, expected = f"{type(self).__name__}.arrays({split!r})", "two arrays of NumPy: images and labels"
        found = called(what, self.arrays, split, expected=expected)
        if not isinstance(found, tuple) or [isinstance(array, np.ndarray) for array in found] != [True, True]:
            raise DataError(f"{what} returned a {type(found).__name__}; expected {expected}")
        return found

    def _checked(self, split: str, images: np.ndarray, labels: np.ndarray) -> "ArraySamples":
        count = self.train_count if split == "train" else self.test_count
        found, expected = (images.shape, labels.shape), ((count, *self.image_shape), (count,))
        if found != expected or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            raise DataError(
                f"{type(self).__name__} has {split} images {images.shape} of {images.dtype} and labels {labels.shape} "
                f"of {labels.dtype}; expected {expected[0]} of uint8 and {expected[1]} of whole numbers: {self.remedy}"
            )
        return ArraySamples(np.ascontiguousarray(images), labels.astype(np.int64))


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


class UnreadableImage(DataError):
    """A picture that cannot be decoded: what `write_dataset(..., skip_unreadable=True)` leaves out."""


def check_quality(quality: int) -> None:
    """Raises a DataError unless `quality` is one of JPEG, 1 to 100."""
    if not 1 <= quality <= 100:
        raise DataError(f"JPEG quality {quality} must be 1 to 100")
