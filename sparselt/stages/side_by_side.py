"""Trains the networks of one group side by side in one process (`sparselt.stages.train.Train.group`)."""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from sparselt.data import ResidentTrainLoader
from sparselt.data.loaders import free_bytes
from sparselt.errors import SparseltError, TrainingError
from sparselt.masks import Mask
from sparselt.models import build_model
from sparselt.stages.stage import Task
from sparselt.stages.train import Train, equal_part
from sparselt.training.captured import pinned_algorithms
from sparselt.training.cohort import Cohort, Member, RunningMember
from sparselt.training.cpu import cpu_threads
from sparselt.training.joining import DifferentBits, reason_against
from sparselt.training.timing import made_up_loader

SIZES = (1, 2, 4, 8, 16)
"""Numbers of networks that `best_group_size` tries side by side."""

_NEAR_BEST = 0.95
_MOST_SECONDS = 4.0  # for the steps that an estimate times

_kept: dict[tuple, Cohort] = {}  # the last one, whose captured step serves later stages of equal shape


def train_side_by_side(jobs: Sequence[tuple[Train, Task]]) -> Iterator[tuple[int, int | Exception]]:
    """Trains the networks of one group side by side; yields the place of each when it is done.

    With the place comes the number of steps made, or an error: an unreadable input, or a network that diverged. The
    others go on.
    """
    with cpu_threads(jobs[0][0].recipe.threads):
        members, masks = {}, {}
        for place, (stage, task) in enumerate(jobs):
            try:
                model, mask = stage.start(task)
                members[place], masks[place] = _member(stage, task, model, mask), mask
            except (SparseltError, OSError) as error:
                yield place, error
        if not members:
            return
        if reason_against(jobs[0][0].recipe, model):
            for place in members:
                stage, task = jobs[place]
                try:
                    yield place, stage.run(task)
                except SparseltError as error:
                    yield place, error
            return
        first, task = jobs[0]
        try:
            cohort, places = _cohort(first, first.batches(task), len(members)), list(members)
        except DifferentBits as error:
            print(f"networks are trained one at a time: {error}", file=sys.stderr)
            forget_cohort()
            for place in members:
                for _, made in train_side_by_side([jobs[place]]):
                    yield place, made
            return
        for k, network, result in cohort.train(list(members.values())):
            place = places[k]
            if isinstance(result, Exception):
                yield place, result
                continue
            stage, task = jobs[place]
            with pinned_algorithms():  # for the evaluation, as in a training alone
                stage.write(task, network, masks[place], result)
            yield place, result.steps


def best_group_size(stage: Train, loader: ResidentTrainLoader, most: int = SIZES[-1]) -> int:
    """The best number of networks like this one to train side by side, up to `most`, measured on its device."""
    device = torch.device(stage.device)
    _kept.clear()
    free = _free_memory(device)
    taken = 0

    def speed(size: int) -> float | None:
        nonlocal taken
        # Twice the networks take at most twice the memory.
        if size > most or 2 * taken > 0.8 * free:
            return None
        try:
            found = _cohort(stage, loader, size).images_per_second()
        except (
            RuntimeError,
            DifferentBits,
        ) as error:  # out of memory inside a capture can come as another error of CUDA
            if size == 1:
                raise
            print(f"{size} networks side by side cannot be measured, so fewer train together: {error}", file=sys.stderr)
            return None
        taken = free - _free_memory(device)
        return found

    with cpu_threads(stage.recipe.threads):
        return best_size(speed)


def best_size(speed: Callable[[int], float | None]) -> int:
    """The smallest number of networks within 5% of the best images a second.

    speed: images a second of a number of networks together; None: they do not fit the device's memory. Called with 1,
        2, 4, 8, 16 until they do not fit.
    """
    speeds: dict[int, float] = {}
    for size in SIZES:
        found = speed(size)
        if found is None:
            break
        speeds[size] = found
    return min((size for size, found in speeds.items() if found >= _NEAR_BEST * max(speeds.values())), default=1)


def _member(stage: Train, task: Task, model: torch.nn.Module, mask: Mask | None) -> Member:
    progress = stage.progress(task)
    saved = progress.restore()
    first = stage.start_step if saved is None else saved.step

    def on_step(step: int, network: RunningMember) -> None:
        if step == first:
            task.signals.trainings += 1
        stage.keep(task, step, network.model, network.optimizer_state)
        if step == stage.recipe.steps:
            task.signals.trainings -= 1
            return
        try:
            progress.keep(step, network.saved)
        except TrainingError:
            task.signals.trainings -= 1
            raise

    return Member(
        stage.recipe,
        stage.batches(task),
        model.state_dict(),
        start_step=stage.start_step,
        mask=mask,
        optimizer_state=None if stage.momentum is None else task.weights(stage.momentum),
        on_step=on_step,
        saved=saved,
    )


def seconds_of_a_step(stage: Train, side: int, cohort: int | None, count: int) -> tuple[float, int] | None:
    """Seconds that a network takes for a step when it trains side by side with others, timed on made-up images.

    On a GPU the step is captured, as in the training; on a CPU the networks take turns.

    Args:
        side: of the images, in pixels.
        cohort: how many train together; None: the best number on the device, measured.
        count: networks that can train together. More than a cohort are trained in equal parts.

    Returns:
        The seconds of all networks divided by their number, and the number; None if such networks cannot share a
        cohort (`joining.reason_against`), or it fails.
    """
    shape: dict[str, Any] = {"classes": stage.classes, "channels": stage.channels, "seed": 0}
    if reason_against(stage.recipe, build_model(stage.recipe.model, **shape)):
        return None
    loader = made_up_loader(stage.recipe, stage.classes, stage.channels, side, asdict(stage.augmentation), stage.device)
    try:
        with cpu_threads(stage.recipe.threads):
            size = equal_part(count, cohort or best_group_size(stage, loader, count))
            speed = _cohort(stage, loader, size).images_per_second(_MOST_SECONDS)
    except (RuntimeError, DifferentBits):  # such as too little memory: the training itself will say what is wrong
        return None
    finally:
        forget_cohort()
    return stage.recipe.batch_size / speed, size


def _cohort(stage: Train, loader: ResidentTrainLoader, size: int) -> Cohort:
    """A cohort of this size for the stage's group: the previous one if it fits."""
    key = (stage.shared, size)
    if key not in _kept or not _kept[key].shares_data_with(loader):
        _kept.clear()
        _free_memory(loader.device)
        shape: dict[str, Any] = {"classes": stage.classes, "channels": stage.channels, "seed": 0}
        models = [build_model(stage.recipe.model, **shape).to(loader.device) for _ in range(size)]
        _kept[key] = Cohort(models, stage.recipe, loader)
    return _kept[key]


def forget_cohort() -> None:
    """Releases the memory of the last cohort."""
    _kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _free_memory(device: torch.device) -> int:
    """Free bytes, after unused memory has been released."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return free_bytes(device)
