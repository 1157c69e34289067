"""The loaders of a stage, opened from its inputs; one process opens each data set once.

Where torch.distributed is initialised, each rank gets its share of every batch and of the test split (`data.Shard`).
"""

import functools
import json
from pathlib import Path
from typing import Any

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

_EVAL_BATCH, _LEAST_EVAL_BATCH = 1000, 64
_CACHED_BYTES = 768 * 1024


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


def eval_loader(
    task: Task, threads: int, *, split: str = "test", images: int = 0, seed: int = 0
) -> ResidentEvalLoader | StreamingEvalLoader:
    """A split, every sample once and never augmented.

    Args:
        images: a random subsample of so many, drawn from `seed`; 0, or more than there are: all of them.
    """
    spec = task.spec
    place: dict[str, Any] = {"device": spec["device"], "split": split}
    if spec["engine"] == "resident":
        resident = _resident(task.inputs[split].parent)
        place |= _subsample(resident.count(split), images, seed)
        size = _eval_batch(resident.images(split)[0].numel(), spec["device"])
        return ResidentEvalLoader(resident, resident.manifest.normalization, size, **place)
    source = dataset(task.inputs["dataset"])
    place |= _subsample(source.count(split), images, seed)
    normal = source.manifest.normalization
    crop = {name: spec["eval"][name] for name in ("size", "ratio", "interpolation")}
    transform = CenterCrop(**crop, mean=normal.mean, std=normal.std, scale=normal.scale)
    return StreamingEvalLoader(source, transform, spec["eval"]["batch_size"], threads=threads, **place)


def _eval_batch(numbers: int, device: str) -> int:
    """Images a batch, of so many numbers each: on a CPU what its caches hold; more takes up to 2.5 times as long."""
    if device != "cpu":
        return _EVAL_BATCH
    return max(_LEAST_EVAL_BATCH, min(_EVAL_BATCH, _CACHED_BYTES // (4 * numbers)))


def _subsample(count: int, images: int, seed: int) -> dict[str, Any]:
    from sparselt.analysis import subsample_indices

    return {"indices": subsample_indices(count, images, seed)} if 0 < images < count else {}


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path, noted: int) -> Dataset:
    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def _resident(folder: Path) -> ResidentData:
    return ResidentData.open(folder)
