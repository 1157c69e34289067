"""Stages run by hand: with files that no other stage made."""

from collections.abc import Mapping
from pathlib import Path

from sparselt.stages import Stage, StageFile, Task
from sparselt.stages.stage import StageReference


def given(name: str) -> StageFile:
    """A file that stands for an input."""
    return StageFile(StageReference("given", name), name)


def task(stage: Stage, folder: Path, paths: Mapping[str, Path]) -> Task:
    """What `stage` is given to run in `folder`, its inputs at `paths` by name."""
    files = {file: paths[name] for name, file in stage.inputs.items()}
    return Task(files, stage.outputs, folder, lambda work: None)
