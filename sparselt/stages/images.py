"""The common part of stages that train or evaluate networks on a data set: the network and the images."""

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sparselt.stages.identity import key_name
from sparselt.stages.stage import Stage, StageFile, Task

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
    """Evaluates resident images as they are stored."""


@dataclass(frozen=True)
class Crop:
    """Evaluates streamed images on a centre crop, see `sparselt.data.CenterCrop`."""

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
        engine: `resident` keeps the pixels in memory, `streaming` decodes the betons.
        evaluated: the transform of images for evaluation.
        dataset: the note of the betons' folder.
        train_pixels, test_pixels: the resident images.
    """

    classes: int
    channels: int
    device: str
    engine: Literal["resident", "streaming"]
    evaluated: Annotated[WholeImages | Crop, key_name("eval")]
    dataset: StageFile
    train_pixels: Annotated[StageFile | None, key_name("train")] = None
    test_pixels: Annotated[StageFile | None, key_name("test")] = None

    def eval_images(
        self, task: Task, threads: int, *, split: str = "test", count: int = 0, seed: int = 0
    ) -> "ResidentEvalLoader | StreamingEvalLoader":
        """Batches of a split, every sample once and never augmented.

        Args:
            count: size of a random subsample, drawn from `seed`; 0, or more than the split has: all of it.
        """
        from sparselt.analysis import subsample_indices
        from sparselt.data.loaders import eval_loader, eval_transform

        source, crop = self._source(task, split), None
        batch_size = None
        if isinstance(self.evaluated, Crop):
            crop = asdict(self.evaluated)
            batch_size = crop.pop("batch_size")
        available = source.count(split)
        return eval_loader(
            source,
            eval_transform(source.manifest, crop),
            batch_size,
            device=self.device,
            threads=threads,
            split=split,
            engine=self.engine,
            indices=subsample_indices(available, count, seed) if 0 < count < available else None,
        )

    def train_images(
        self, task: Task, augmentation: Shift | RandomCrop, batch_size: int, seeds: "Seeds", threads: int
    ) -> "ResidentTrainLoader | StreamingTrainLoader":
        """Augmented training batches; `seeds` decide their order and crops."""
        from sparselt.data.loaders import train_loader, train_transform

        source = self._source(task, "train")
        return train_loader(
            source,
            batch_size,
            order_seed=seeds.order,
            augmentation_seed=seeds.augmentation,
            transform=train_transform(source.manifest, asdict(augmentation)),
            device=self.device,
            threads=threads,
            engine=self.engine,
        )

    def _source(self, task: Task, split: str) -> "Dataset | ResidentData":
        pixels = self.train_pixels if split == "train" else self.test_pixels
        return open_noted(task.path(self.dataset)) if pixels is None else _opened(task.path(pixels).parent)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(OnImages):
    """A stage that evaluates trained networks. Its unit of work is one network evaluated on the test images.

    model_source: digest of the user's file that defines the network, see `sparselt.models.model_digest`.
    winograd: whether convolutions take Winograd's algorithm, see `sparselt.winograd_`; None: no.
    """

    unit = "points"
    cost_depends_on: ClassVar[tuple[str, ...]] = ("model", "device", "engine", "eval")

    model: str
    model_source: str | None = None
    precision: Literal["float32", "bfloat16"]
    threads: int
    winograd: bool | None = None

    def network(self) -> "nn.Module":
        """A network of this shape on the stage's device, for a whole state to be put in."""
        from sparselt.models import blank_model, check_unedited
        from sparselt.models.winograd import winograd_

        check_unedited(self.model, self.model_source)
        network = blank_model(self.model, self.classes, self.channels).to(self.device)
        if self.winograd:
            winograd_(network)
        return network

    def states(self, task: Task, files: Iterable[StageFile]) -> list[dict[str, "Tensor"]]:
        """The weights and buffers of networks, on the stage's device."""
        return [{name: tensor.to(self.device) for name, tensor in task.weights(file).items()} for file in files]


def open_noted(note: Path) -> "Dataset":
    """The data set that a `dataset.json` points to, its betons verified."""
    return _dataset((note.parent / json.loads(note.read_text())["folder"]).resolve(), note.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path, noted: int) -> "Dataset":
    from sparselt.data import open_dataset

    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> "ResidentData":
    from sparselt.data import ResidentData

    return ResidentData.open(folder)
