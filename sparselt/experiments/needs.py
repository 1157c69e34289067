"""The memory and the disk that a run takes, reckoned from its plan before anything runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.experiments.setting import Setting
from sparselt.stages.data import Pixels, PrepareDataset
from sparselt.stages.masks import MakesMask
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train
from sparselt.training.recipe import Recipe

if TYPE_CHECKING:
    from sparselt.training.memory import StepMemory

_SAVES = 2  # of an unfinished training, see `sparselt.training.progress`


@dataclass(frozen=True)
class Needs:
    """An estimate in bytes.

    training: memory of one training, of all its ranks together: weights, gradients, optimizer state, the batch, and
        what a step keeps for its backward pass.
    data: memory of the images, if they are kept there; processes of one machine share it.
    disk: what the missing stages write, and the saves of the trainings under way.
    """

    training: int
    data: int
    disk: int


def needs_of(setting: Setting, missing: Sequence[Stage], workers: int) -> Needs:
    """The memory and disk that the missing stages need, with `workers` trainings at a time."""
    memory = _memory(setting, setting.recipe)
    weights, state = memory.weights, memory.state
    images = _image_bytes(setting)
    disk = min(workers, sum(isinstance(stage, Train) for stage in missing)) * _SAVES * (weights + state)
    for stage in missing:
        if isinstance(stage, Train):
            files = [name for name in stage.outputs if name.endswith(".safetensors")]
            momenta = sum(name.startswith("momentum-") for name in files)
            disk += (len(files) - momenta) * weights + momenta * state
        elif isinstance(stage, MakesMask):
            disk += weights // 32  # one bit a weight
        elif isinstance(stage, Pixels) or (isinstance(stage, PrepareDataset) and stage.source is not None):
            disk += images
    part = setting.batch_size // setting.ranks // setting.micro_batches
    return Needs(setting.ranks * memory.of(part), images if setting.engine == "resident" else 0, disk)


def check_gpu_memory(setting: Setting, missing: Iterable[Stage], free: int) -> None:
    """Checks that a micro-batch of each missing training fits a GPU with `free` bytes for it, beside the images there.

    A training whose network cannot be counted passes.

    Raises:
        SettingError: see `sparselt.training.memory.check_fits`.
    """
    from sparselt.training.memory import check_fits

    room = free - (_image_bytes(setting) if setting.engine == "resident" else 0)
    schedule = setting.recipe.schedule  # takes no memory
    for recipe in {replace(stage.recipe, schedule=schedule) for stage in missing if isinstance(stage, Train)}:
        try:
            memory = _memory(setting, recipe)
        except SettingError:
            continue
        check_fits(recipe, memory, room)


def _memory(setting: Setting, recipe: Recipe) -> "StepMemory":
    from sparselt.training.memory import step_memory

    return step_memory(recipe, setting.classes, setting.channels, setting.train_size)


def _image_bytes(setting: Setting) -> int:
    return (setting.train_count + setting.test_count) * setting.channels * setting.train_size**2
