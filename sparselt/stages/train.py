"""The stage that trains a network."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparselt.stages.gang import in_gang, train_in_gang
from sparselt.stages.identity import digest, key_name, numbered_key_names, to_json
from sparselt.stages.images import OnImages, RandomCrop, Shift
from sparselt.stages.stage import JsonFile, ReadJson, Stage, StageFile, Task
from sparselt.stages.values import Value
from sparselt.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    import torch

    from sparselt.masks import Mask
    from sparselt.training.loop import Trained
    from sparselt.training.progress import Progress
    from sparselt.training.ranks import Ranks
    from sparselt.training.repulsion import Repulsion

_OWN_VALUES = {"seeds", "start_step"}  # may differ among members, as may the schedule and the start
_SHARED_INPUTS, _OWN_INPUTS = {"dataset", "train", "test"}, {"weights", "mask", "momentum"}
_NEAR = 0.9  # least ratio of the shortest to the longest training, because those that end early then idle


@dataclass(frozen=True)
class Measurements:
    """`measurements.json`: the measurements of a training.

    density: of the mask, 1 without one. test_error: a fraction. test_loss, train_loss, train_loss_std: in nats; the
    last two over the batches of the last epoch, during training.
    """

    density: float
    test_error: float
    test_loss: float
    train_loss: float
    train_loss_std: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(OnImages):
    """Trains a network from its initialization or from a checkpoint, dense or masked; evaluates it at the end.

    Trainings of one group may run side by side in one process (`sparselt.training.cohort`). A small network leaves most
    of a GPU idle, so several share it; a measurement on the device chooses the number. On a CPU separate processes are
    faster, so each process trains one network by default. On two cores, two processes trained 1.64 times as fast as one
    process that trained the two in turn, and one process with both side by side 0.93 times as fast (digits recipe, one
    thread a network, medians of 7 interleaved, two EPYC cores).

    Args:
        recipe, seeds: the hyperparameters and the randomness.
        start_step: where schedule and data start.
        augmentation: of the training images.
        eval_precision: `float32`, or `bfloat16` autocast, for the evaluation at the end; None: as in training.
        model_source: digest of the user's file that defines the network, see `sparselt.models.model_digest`.
        repulsion, solutions: λ of the repelling loss and the networks that repel, see
            `sparselt.training.repulsion.Repulsion`.
        weights: the checkpoint to start from; None: the initialization.
        mask: None: dense.
        momentum: the momentum to start with; None: zero.
    """

    kind = "train"
    title = "train"
    unit = "steps"
    cost_depends_on = ("recipe", "device", "train")

    recipe: Recipe
    seeds: Seeds
    start_step: int
    augmentation: Annotated[Shift | RandomCrop, key_name("train")]
    eval_precision: Literal["float32", "bfloat16"] | None = None
    model_source: str | None = None
    repulsion: float | None = None
    solutions: Annotated[tuple[StageFile, ...], numbered_key_names("solution")] = ()
    weights: StageFile | None = None
    mask: StageFile | None = None
    momentum: StageFile | None = None

    @property
    def final(self) -> StageFile:
        """Weights and buffers of the trained network."""
        return self.file("final.safetensors")

    def checkpoint(self, step: int) -> StageFile:
        """Weights and buffers after `step` steps of the full training."""
        return self.file(checkpoint_name(step))

    def momentum_at(self, step: int) -> StageFile:
        """The optimizer's momentum after `step` steps."""
        return self.file(momentum_name(step))

    @property
    def measured(self) -> JsonFile[Measurements]:
        return self.json_file("measurements.json", Measurements)

    def values(self, read: ReadJson) -> Iterator[Value]:
        """Test error and loss, and the training loss of the last epoch."""
        measured = read(self.measured)
        for metric in ("test_error", "test_loss", "train_loss"):
            yield Value(metric, getattr(measured, metric))

    @cached_property
    def group(self) -> str | None:
        """Trainings with equal groups can run side by side; None: this one runs alone.

        Members may differ in seeds, start step, starting weights and, without decoupled weight decay, in the schedule.
        """
        if not self.joins:
            return None
        data = {name: [f.stage.key, f.name] for name, f in self.inputs.items() if name in _SHARED_INPUTS}
        return digest({"spec": self.shared, "data": data})

    def mates(self, others: "Iterable[Stage]") -> "list[Train]":
        """Those of `others` that can run side by side with this one, in their order."""
        return [
            other
            for other in others
            if isinstance(other, Train)
            and min(self.work, other.work) >= _NEAR * max(self.work, other.work)
            and self.group is not None
            and other.group == self.group
        ]

    def run(self, task: Task) -> int:
        """Trains the network, by itself or in several processes together; the optimizer steps are the work."""
        if self.recipe.ranks > 1 and not in_gang():
            return train_in_gang(self, task, self.recipe.ranks)
        from sparselt.optim import build_optimizer
        from sparselt.training import loop
        from sparselt.training.batch_norm import synchronize_batch_norm_
        from sparselt.training.captured import pinned_algorithms
        from sparselt.training.checkpoint import load_state, state_of
        from sparselt.training.cpu import cpu_threads
        from sparselt.training.ranks import Ranks

        recipe = self.recipe
        with cpu_threads(recipe.threads), pinned_algorithms():
            model, mask = self.start(task)
            model.to(self.device)
            ranks = None if recipe.ranks == 1 else Ranks(model, recipe.batch_size, mask, recipe.sent_gradients)
            if recipe.sync_batch_norm:
                synchronize_batch_norm_(model)
            optimizer = build_optimizer(recipe, model.named_parameters(), mask)
            if self.momentum is not None:
                load_state(model, optimizer, task.weights(self.momentum))

            task.signals.trainings += 1
            trained = loop.train(
                model,
                optimizer,
                self.batches(task),
                recipe,
                start_step=self.start_step,
                on_step=lambda step: self.keep(task, step, model, lambda: state_of(model, optimizer), ranks),
                penalty=self._repulsion(task, model, mask),
                progress=self.progress(task, ranks),
                seed=self.seeds.augmentation,
                ranks=ranks,
            )
            self.write(task, model, mask, trained, ranks)
        return trained.steps

    def progress(self, task: Task, ranks: "Ranks | None" = None) -> "Progress":
        """The saves of this training. One is of use if no checkpoint of an earlier step is missing beside it."""
        from sparselt.training.progress import Progress

        wanted = {name: step for name in task.outputs if (step := step_of(name)) is not None}

        def usable(step: int, made: Collection[str]) -> bool:
            return all(step <= at for name, at in wanted.items() if name not in made)

        return Progress(task.folder, task.save_seconds, task.signals, usable, ranks, task.written)

    def keep(
        self,
        task: Task,
        step: int,
        model: "torch.nn.Module",
        momentum: "Callable[[], Mapping[str, torch.Tensor]]",
        ranks: "Ranks | None" = None,
    ) -> None:
        """Reports `step`, and writes the weights and the momentum if they are wanted at it."""
        task.report(step - self.start_step)
        made: dict[str, Callable[[], Mapping[str, torch.Tensor]]] = {
            checkpoint_name(step): model.state_dict,
            momentum_name(step): momentum,
        }
        wanted = made.keys() & task.outputs
        if wanted and ranks is not None:
            ranks.check_equal(step)
        if ranks is None or ranks.writes:
            for name in sorted(wanted):
                task.write_weights(name, made[name]())

    def start(self, task: Task) -> "tuple[torch.nn.Module, Mask | None]":
        """The network on the CPU as its training begins, and its mask."""
        from sparselt.models import blank_model, build_model, check_unedited
        from sparselt.training.checkpoint import rewind_
        from sparselt.training.techniques import start_bias_for_bce_

        recipe = self.recipe
        check_unedited(recipe.model, self.model_source)
        mask = None if self.mask is None else task.mask(self.mask)
        if self.weights is not None:
            model = blank_model(recipe.model, self.classes, self.channels)
            rewind_(model, task.weights(self.weights), mask)
            return model, mask
        model = build_model(
            recipe.model,
            classes=self.classes,
            channels=self.channels,
            seed=self.seeds.initialization,
            initialization=recipe.initialization,
            norm_scale=recipe.norm_scale,
        )
        if recipe.techniques.bce:
            start_bias_for_bce_(model, self.classes)
        if mask is not None:
            mask.apply_(model)
        return model, mask

    def batches(self, task: Task) -> Any:
        return self.train_images(task, self.augmentation, self.recipe.batch_size, self.seeds, self.recipe.threads)

    def _repulsion(self, task: Task, model: "torch.nn.Module", mask: "Mask | None") -> "Repulsion | None":
        if self.repulsion is None:
            return None
        from sparselt.masks import Mask
        from sparselt.training.repulsion import Repulsion

        solutions = [task.weights(solution) for solution in self.solutions]
        return Repulsion(solutions, Mask.ones_like(model) if mask is None else mask, self.repulsion)

    def write(
        self,
        task: Task,
        model: "torch.nn.Module",
        mask: "Mask | None",
        trained: "Trained",
        ranks: "Ranks | None" = None,
    ) -> None:
        from sparselt.training import loop

        images, precision = self.eval_images(task, self.recipe.threads), self.eval_precision or self.recipe.precision
        if ranks is not None:
            ranks.check_equal(self.recipe.steps)
            ranks.share_buffers()
        writes = ranks is None or ranks.writes
        with task.writing_weights(self.final.name, model.state_dict()) if writes else contextlib.nullcontext():
            error, loss = loop.evaluate(model, images, precision, ranks)
        if not writes:
            return
        density = 1.0 if mask is None else mask.density
        task.write(self.measured, Measurements(density, error, loss, trained.train_loss, trained.train_loss_std))

    @property
    def joins(self) -> bool:
        """Whether it can run side by side with others."""
        techniques = self.recipe.techniques
        return (
            self.engine == "resident"
            and self.repulsion is None
            and self.recipe.ranks == 1
            and not self.recipe.sparse_up_to
            and self.inputs.keys() <= _SHARED_INPUTS | _OWN_INPUTS
            and not techniques.progressive_resizing
            and not techniques.ema_half_life
        )

    @property
    def shared(self) -> str:
        """Digest of the values that the members of a group share."""
        recipe = to_json(self.recipe)
        if not self.recipe.decoupled_weight_decay:
            del recipe["schedule"]
        shared = {name: value for name, value in self.identity_values.items() if name not in _OWN_VALUES}
        return digest(shared | {"recipe": recipe})


def finals(networks: "Iterable[Train]") -> tuple[StageFile, ...]:
    """The trained weights of several networks."""
    return tuple(network.final for network in networks)


def equal_part(count: int, most: int, free: int = 1) -> int:
    """The size of a cohort if `count` networks are divided equally into cohorts of at most `most`: as few as possible,
    but one for each of `free` workers. The last one may be smaller."""
    return -(-count // max(-(-count // most), min(free, count)))


def checkpoint_name(step: int) -> str:
    """The file of a network's weights and buffers after `step` steps."""
    return f"step-{step}.safetensors"


def step_of(name: str) -> int | None:
    """The step of a file of `checkpoint_name` or `momentum_name`; None for another file."""
    found = re.fullmatch(r"(?:step|momentum)-(\d+)\.safetensors", name)
    return int(found[1]) if found else None


def momentum_name(step: int) -> str:
    """The file of the momentum after `step` steps."""
    return f"momentum-{step}.safetensors"
