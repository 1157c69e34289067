"""The loaders of a stage, opened from its inputs; one process opens each data set once."""

import functools
import json
from pathlib import Path

from sparselt.data import (
    CenterCrop,
    PadCrop,
    RandomResizedCrop,
    ResidentData,
    ResidentEvalLoader,
    ResidentTrainLoader,
    StreamingEvalLoader,
    StreamingTrainLoader,
    open_dataset,
)
from sparselt.data.dataset import Dataset
from sparselt.runs.kinds import Task
from sparselt.training.recipe import Recipe

_EVAL_BATCH = 1000


def dataset(note: Path) -> Dataset:
    """The data set that a `dataset.json` points to, its betons verified."""
    return _dataset((note.parent / json.loads(note.read_text())["folder"]).resolve(), note.stat().st_mtime_ns)


def train_loader(task: Task, recipe: Recipe) -> ResidentTrainLoader | StreamingTrainLoader:
    """Training batches as the spec's `engine`, `train` and `seeds` say."""
    spec = task.spec
    seeds = {"order_seed": spec["seeds"]["order"], "augmentation_seed": spec["seeds"]["augmentation"]}
    if spec["engine"] == "resident":
        resident = _resident(task.inputs["train"].parent)
        normal = resident.manifest.normalization
        transform = PadCrop(**spec["train"], mean=normal.mean, std=normal.std, scale=normal.scale)
        return ResidentTrainLoader(resident, recipe.batch_size, **seeds, transform=transform, device=spec["device"])
    source = dataset(task.inputs["dataset"])
    normal = source.manifest.normalization
    transform = RandomResizedCrop(**spec["train"], mean=normal.mean, std=normal.std, scale=normal.scale)
    return StreamingTrainLoader(
        source, recipe.batch_size, **seeds, transform=transform, device=spec["device"], threads=recipe.threads
    )


def eval_loader(task: Task, threads: int) -> ResidentEvalLoader | StreamingEvalLoader:
    """The test split, every sample once and never augmented."""
    spec = task.spec
    if spec["engine"] == "resident":
        resident = _resident(task.inputs["test"].parent)
        return ResidentEvalLoader(resident, resident.manifest.normalization, _EVAL_BATCH, device=spec["device"])
    source = dataset(task.inputs["dataset"])
    normal = source.manifest.normalization
    crop = {"size": spec["eval"]["size"], "ratio": spec["eval"]["ratio"]}
    transform = CenterCrop(**crop, mean=normal.mean, std=normal.std, scale=normal.scale)
    return StreamingEvalLoader(source, transform, spec["eval"]["batch_size"], device=spec["device"], threads=threads)


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path, noted: int) -> Dataset:
    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def _resident(folder: Path) -> ResidentData:
    return ResidentData.open(folder)
