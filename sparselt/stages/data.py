"""Stages that make a data set ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselt.stages.identity import not_in_key
from sparselt.stages.images import open_noted
from sparselt.stages.stage import JsonFile, Stage, StageFile, Task


@dataclass(frozen=True)
class DatasetNote:
    """`dataset.json`: the folder of the betons, relative to the note's own folder."""

    folder: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PrepareDataset(Stage):
    """Writes the betons of a source, or checks the user's betons and notes their folder.

    Args:
        source: record of the source, see `sparselt.data.source_record`; None if only a plan is made.
        fingerprint: of the user's betons, instead of a source.
        folder: of the user's betons on this machine.
    """

    kind = "dataset"
    version = 2
    title = "write or check the betons"
    unit = "images"

    source: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    folder: str | None = not_in_key(None)

    @property
    def identity_values(self) -> dict[str, Any]:
        """The source, or the fingerprint. A plan without a source has a key as well."""
        return {"source": self.source} if self.fingerprint is None else {"fingerprint": self.fingerprint}

    @property
    def runs_in_every_plan(self) -> bool:
        """True for the user's betons, whose folder may have changed."""
        return self.folder is not None

    @property
    def note(self) -> JsonFile[DatasetNote]:
        return self.json_file("dataset.json", DatasetNote)

    def run(self, task: Task) -> int:
        """Writes or opens the betons. Each image is a unit of work."""
        from sparselt.data import open_dataset, source_from_record, write_dataset

        if self.folder is not None:
            dataset = open_dataset(self.folder)
            task.write(self.note, DatasetNote(str(Path(self.folder).resolve())))
        else:
            write_dataset(source_from_record(self.source), task.folder)
            dataset = open_dataset(task.folder)
            task.write(self.note, DatasetNote("."))
        return dataset.count("train") + dataset.count("test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels(Stage):
    """A stage that stores pixels and labels of both splits, which all trainings map into memory."""

    unit = "images"

    @property
    def train(self) -> StageFile:
        return self.file("train.safetensors")

    @property
    def test(self) -> StageFile:
        """Pixels and labels of the images to evaluate on."""
        return self.file("test.safetensors")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadPixels(Pixels):
    """Reads every beton once and stores the pixels."""

    kind = "resident"
    title = "read the betons"

    dataset: StageFile

    def run(self, task: Task) -> int:
        """Reads the betons. Each image is a unit of work."""
        from sparselt.data import write_resident

        dataset = open_noted(task.path(self.dataset))
        write_resident(dataset, task.folder)
        return dataset.count("train") + dataset.count("test")


@dataclass(frozen=True, kw_only=True, eq=False)
class HoldOut(Pixels):
    """Divides the training images into those to train on and `count` others to evaluate on instead of the test images.

    Args:
        seed: decides which images are held out.
        pixels: of all training images.
    """

    kind = "hold_out"
    title = "hold out validation images"

    count: int
    seed: int
    pixels: StageFile

    def run(self, task: Task) -> int:
        """Divides the images. Each is a unit of work."""
        from sparselt.data import ResidentData, write_held_out

        resident = ResidentData.open(task.path(self.pixels).parent)
        write_held_out(resident, task.folder, self.count, self.seed)
        return resident.count("train")
