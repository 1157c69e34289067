"""What stages share that train or evaluate networks on a data set: which network, which images, in which form."""

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparselt.stages.stage import Stage, StageFile, Task, named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparselt.data import (
        Dataset,
        ResidentData,
        ResidentEvalLoader,
        ResidentTrainLoader,
        StreamingEvalLoader,
        StreamingTrainLoader,
    )
    from sparselt.training.recipe import Seeds

_EVAL_BATCH, _LEAST_EVAL_BATCH = 1000, 64
_CACHED_BYTES = 768 * 1024


@dataclass(frozen=True)
class Shift:
    """Augmentation of resident images: a random shift by up to `padding` pixels, and a random mirror image."""

    padding: int
    flip: bool


@dataclass(frozen=True)
class RandomCrop:
    """Augmentation of streamed images: a random resized crop of `size` pixels a side, and a random mirror image."""

    size: int
    flip: bool


@dataclass(frozen=True)
class WholeImages:
    """Resident images are evaluated as they are stored."""


@dataclass(frozen=True)
class Crop:
    """Streamed images are evaluated on a centre crop, see `sparselt.data.CenterCrop`."""

    size: int
    ratio: float
    interpolation: Literal["bilinear", "area"]
    batch_size: int


@dataclass(frozen=True, kw_only=True, eq=False)
class OnImages(Stage):
    """A stage that trains or evaluates networks on images.

    Args:
        classes, channels: of the data.
        device: `cpu` or `cuda`.
        engine: `resident` reads pixels that are kept in memory, `streaming` decodes the betons.
        evaluated: how images reach the network when it is evaluated.
        dataset: note of the betons.
        train_pixels, test_pixels: the resident images.
    """

    classes: int
    channels: int
    device: str
    engine: Literal["resident", "streaming"]
    evaluated: Annotated[WholeImages | Crop, named("eval")]
    dataset: StageFile
    train_pixels: Annotated[StageFile | None, named("train")] = None
    test_pixels: Annotated[StageFile | None, named("test")] = None

    def eval_images(
        self, task: Task, threads: int, *, split: str = "test", count: int = 0, seed: int = 0
    ) -> "ResidentEvalLoader | StreamingEvalLoader":
        """Batches of a split, every sample once and never augmented.

        Args:
            count: a random subsample of so many, drawn from `seed`; 0, or more than there are: all of them.
        """
        from sparselt.data import CenterCrop, ResidentEvalLoader, StreamingEvalLoader

        place: dict[str, Any] = {"device": self.device, "split": split}
        if isinstance(self.evaluated, Crop):
            source, crop = open_noted(task.path(self.dataset)), asdict(self.evaluated)
            place |= _subsample(source.count(split), count, seed)
            batch_size = crop.pop("batch_size")
            transform = CenterCrop(**crop, **_normalization(source))
            return StreamingEvalLoader(source, transform, batch_size, threads=threads, **place)
        resident = _resident(task, self.train_pixels if split == "train" else self.test_pixels)
        place |= _subsample(resident.count(split), count, seed)
        size = _eval_batch(resident.images(split)[0].numel(), self.device)
        return ResidentEvalLoader(resident, resident.manifest.normalization, size, **place)

    def train_images(
        self, task: Task, augmentation: Shift | RandomCrop, batch_size: int, seeds: "Seeds", threads: int
    ) -> "ResidentTrainLoader | StreamingTrainLoader":
        """Augmented training batches, in the order and with the crops of `seeds`."""
        from sparselt.data import PadCrop, RandomResizedCrop, ResidentTrainLoader, StreamingTrainLoader

        place: dict[str, Any] = {
            "order_seed": seeds.order,
            "augmentation_seed": seeds.augmentation,
            "device": self.device,
        }
        if isinstance(augmentation, Shift):
            resident = _resident(task, self.train_pixels)
            shift = PadCrop(**asdict(augmentation), **_normalization(resident))
            return ResidentTrainLoader(resident, batch_size, transform=shift, **place)
        source = open_noted(task.path(self.dataset))
        crop = RandomResizedCrop(**asdict(augmentation), **_normalization(source))
        return StreamingTrainLoader(source, batch_size, transform=crop, threads=threads, **place)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(OnImages):
    """A stage that evaluates trained networks. Its work is counted in evaluations of one network on the test images."""

    unit = "points"
    cost_follows = ("model", "device", "engine", "eval")

    model: str
    precision: Literal["float32", "bfloat16"]
    threads: int

    def network(self) -> "nn.Module":
        """A network of this shape on the stage's device, for other weights to be put in."""
        from sparselt.models import build_model

        return build_model(self.model, classes=self.classes, channels=self.channels, seed=0).to(self.device)

    def states(self, task: Task, files: Iterable[StageFile]) -> list[dict[str, "Tensor"]]:
        """The weights and buffers of networks, on the stage's device."""
        from sparselt.training.checkpoint import load_tensors

        loaded = [load_tensors(task.path(file)) for file in files]
        return [{name: tensor.to(self.device) for name, tensor in state.items()} for state in loaded]


def open_noted(note: Path) -> "Dataset":
    """The data set that a `dataset.json` points to, its betons verified."""
    return _dataset((note.parent / json.loads(note.read_text())["folder"]).resolve(), note.stat().st_mtime_ns)


def _normalization(source: "Dataset | ResidentData") -> dict[str, Any]:
    normal = source.manifest.normalization
    return {"mean": normal.mean, "std": normal.std, "scale": normal.scale}


def _eval_batch(numbers: int, device: str) -> int:
    """Images a batch, of so many numbers each: on a CPU what its caches hold; more takes up to 2.5 times as long."""
    if device != "cpu":
        return _EVAL_BATCH
    return max(_LEAST_EVAL_BATCH, min(_EVAL_BATCH, _CACHED_BYTES // (4 * numbers)))


def _subsample(count: int, images: int, seed: int) -> dict[str, Any]:
    from sparselt.analysis import subsample_indices

    return {"indices": subsample_indices(count, images, seed)} if 0 < images < count else {}


def _resident(task: Task, pixels: StageFile | None) -> "ResidentData":
    assert pixels is not None, "a resident engine has pixels"
    return _opened(task.path(pixels).parent)


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path, noted: int) -> "Dataset":
    from sparselt.data import open_dataset

    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> "ResidentData":
    from sparselt.data import ResidentData

    return ResidentData.open(folder)
