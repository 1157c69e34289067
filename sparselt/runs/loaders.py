"""The loaders of a stage, opened from its inputs; one process opens each data set once.

Where torch.distributed is initialised, each rank gets its share of every batch and of the test split (`data.Shard`).
"""

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
    place = {"device": spec["device"]}
    if spec["engine"] == "resident":
        resident = _resident(task.inputs["train"].parent)
        normal = resident.manifest.normalization
        transform = PadCrop(**spec["train"], mean=normal.mean, std=normal.std, scale=normal.scale)
        return ResidentTrainLoader(resident, recipe.batch_size, **seeds, transform=transform, **place)
    source = dataset(task.inputs["dataset"])
    normal = source.manifest.normalization
    transform = RandomResizedCrop(**spec["train"], mean=normal.mean, std=normal.std, scale=normal.scale)
    return StreamingTrainLoader(
        source, recipe.batch_size, **seeds, transform=transform, threads=recipe.threads, **place
    )


def eval_loader(task: Task, threads: int) -> ResidentEvalLoader | StreamingEvalLoader:
    """The test split, every sample once and never augmented."""
    spec = task.spec
    place = {"device": spec["device"]}
    if spec["engine"] == "resident":
        resident = _resident(task.inputs["test"].parent)
        return ResidentEvalLoader(resident, resident.manifest.normalization, _EVAL_BATCH, **place)
    source = dataset(task.inputs["dataset"])
    normal = source.manifest.normalization
    crop = {name: spec["eval"][name] for name in ("size", "ratio", "interpolation")}
    transform = CenterCrop(**crop, mean=normal.mean, std=normal.std, scale=normal.scale)
    return StreamingEvalLoader(source, transform, spec["eval"]["batch_size"], threads=threads, **place)


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path, noted: int) -> Dataset:
    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def _resident(folder: Path) -> ResidentData:
    return ResidentData.open(folder)
