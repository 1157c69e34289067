"""Stages that make a data set ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselt.stages.images import open_noted
from sparselt.stages.stage import Result, Stage, StageFile, Task, aside


@dataclass(frozen=True)
class DatasetNote:
    """`dataset.json`: where the betons stand, seen from the note's own folder."""

    folder: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PrepareDataset(Stage):
    """Writes the betons of a source, or checks the user's own and notes where they stand.

    Args:
        source: record of the source, see `sparselt.data.source_record`; None where only a plan can be made.
        fingerprint: of the user's betons, in place of a source.
        folder: where the user's betons stand on this machine.
    """

    kind = "dataset"
    version = 2
    title = "write or check the betons"
    unit = "images"

    source: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    folder: str | None = aside(None)

    @property
    def spec(self) -> dict[str, Any]:  # type: ignore[override]  # a plan without a source has a key as well
        """The source, or the fingerprint."""
        return {"source": self.source} if self.fingerprint is None else {"fingerprint": self.fingerprint}

    @property
    def local(self) -> bool:
        """Where the user's betons stand may have changed."""
        return self.folder is not None

    @property
    def note(self) -> Result[DatasetNote]:
        """Where the betons stand."""
        return self.result("dataset.json", DatasetNote)

    def run(self, task: Task) -> int:
        """Writes or opens the betons; the images are the work."""
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
class ReadPixels(Stage):
    """Reads every beton once and keeps the pixels, for all trainings to map into memory."""

    kind = "resident"
    title = "read the betons"
    unit = "images"

    dataset: StageFile

    @property
    def train(self) -> StageFile:
        """Pixels and labels of the training images."""
        return self.file("train.safetensors")

    @property
    def test(self) -> StageFile:
        """Pixels and labels of the test images."""
        return self.file("test.safetensors")

    def run(self, task: Task) -> int:
        """Reads the betons; the images are the work."""
        from sparselt.data import write_resident

        dataset = open_noted(task.path(self.dataset))
        write_resident(dataset, task.folder)
        return dataset.count("train") + dataset.count("test")
