"""Trains several networks of one architecture side by side on one device. Each gets the same bits as alone.

A `Member` is a training to be made: its start and its callback. While it runs, a `Branch` holds its network (`model`)
and its place in the schedule and the data, and a `RunningMember` shows both to the callback.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sparselt.data import ResidentTrainLoader
from sparselt.errors import SettingError, TrainingError
from sparselt.optim import MaskedOptimizer, build_optimizer_of_networks, mask_of_networks
from sparselt.training.captured import capture, on_streams, pinned_algorithms
from sparselt.training.checkpoint import flat_state, nested_state
from sparselt.training.forward import training_forwards
from sparselt.training.joining import check_networks, check_same_bits, difference_in_shapes, reason_against_loader
from sparselt.training.loop import Trained, forward_passes, trained
from sparselt.training.progress import Saved
from sparselt.training.recipe import Recipe
from sparselt.training.step import Branch

_TIMED_STEPS = 20
_TIMED_SECONDS = 0.5  # on a GPU, whose clock rises with its load


@dataclass(frozen=True)
class Member:
    """The start of one network of a cohort, and its callback.

    Args:
        recipe: the cohort's; only the schedule may differ.
        loader: with the cohort's data and device; the seeds of order and augmentation may differ.
        state: all weights and buffers at the start, on any device; masked weights are taken as 0.
        start_step: where schedule and data start.
        mask: None: dense.
        optimizer_state: all state of the optimizer, momentum and other, as from `checkpoint.state_of`; None: zero. The
            state of parameters not named is zero.
        on_step: called with the number of steps made and the running member, as in `loop.train`. On a GPU the host runs
            ahead of the device, and reading the network waits for it. If it raises a TrainingError, only this member
            ends.
        saved: what an earlier run saved of this training (`RunningMember.saved`). The training goes on from there.
    """

    recipe: Recipe
    loader: ResidentTrainLoader
    state: Mapping[str, Tensor]
    start_step: int = 0
    mask: Mapping[str, Tensor] | None = None
    optimizer_state: Mapping[str, Tensor] | None = None
    on_step: Callable[[int, "RunningMember"], None] = field(default=lambda step, running: None)
    saved: Saved | None = None


class RunningMember:
    """A member in training, as `on_step` receives it. `model` is its network.

    index: its index in the cohort, which the optimizer's parameter names begin with.
    """

    def __init__(self, branch: Branch, optimizer: MaskedOptimizer, index: int):
        self.model, self._branch, self._optimizer, self._prefix = branch.model, branch, optimizer, f"{index}."

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's state, under the names of `checkpoint.flat_state`."""
        state = self._optimizer.named_state().items()
        return flat_state({n.removeprefix(self._prefix): entry for n, entry in state if n.startswith(self._prefix)})

    def saved(self) -> Saved:
        """Everything that the training needs to go on from its present step. Waits for a GPU."""
        branch = self._branch
        return Saved(branch.step, self.model.state_dict(), self.optimizer_state(), branch.losses_so_far())


class Cohort:
    """K networks that train together. Each call of `train` starts up to K new members.

    On a GPU the step is one CUDA graph (`captured`). The start of each new member is copied into the graph's memory, so
    another level, mask, seed or learning rate needs no new capture. On a CPU the same step runs eagerly, network after
    network.

    The networks must not draw random numbers. Modules known to draw them are refused. Functions such as `F.dropout` or
    `torch.rand` in a forward pass go unnoticed; such networks get other numbers together than alone.

    Args:
        models: K networks of one architecture, on the loader's device. Their weights do not matter.
        recipe: of all members; see `joining.reason_against`.
        loader: all members share its data, augmentation and device.
        captured: whether the step is a CUDA graph; default: on a GPU.

    Raises:
        SettingError: no network; networks that a cohort cannot train, see `joining.reason_against`; networks whose
            names or shapes differ; a loader that streams, is one rank's, or has another batch size than the recipe.
        DifferentBits: compiled networks that do not compute alike, see `joining.check_same_bits`.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        recipe: Recipe,
        loader: ResidentTrainLoader,
        captured: bool | None = None,
    ):
        check_networks(models, recipe)
        if against := reason_against_loader(loader, recipe):
            raise SettingError(f"a cohort cannot train so: {against}")
        self._recipe, self._loader = recipe, loader
        self._current_run: object = None  # an object for each call of `train`; the latest owns the networks' memory
        forwards = forward_passes(models, recipe)
        if recipe.compile and len(models) > 1:
            with pinned_algorithms():
                check_same_bits(models, forwards, loader, recipe)
        rates = [torch.full((), recipe.schedule.peak, dtype=torch.float64, device=loader.device) for _ in models]
        self._optimizer = build_optimizer_of_networks(recipe, models, rates)
        for model in models:
            model.train()
        training = training_forwards(models, forwards, recipe, self._optimizer)
        self._branches = [
            Branch(model, forward, rate, loader, recipe)
            for model, forward, rate in zip(models, training, rates, strict=True)
        ]
        self._graph = None
        if captured if captured is not None else loader.device.type == "cuda":
            with pinned_algorithms():
                self._graph = _captured_or_none(self._step, self._branches)

    @property
    def size(self) -> int:
        """K."""
        return len(self._branches)

    def shares_data_with(self, loader: ResidentTrainLoader) -> bool:
        """Whether members may use this loader: the same data in the same memory, augmented alike."""
        return loader._images is self._loader._images and loader.transform == self._loader.transform

    def images_per_second(self, most_seconds: float = math.inf) -> float:
        """The speed of all K networks together, measured over a few steps; over fewer, if they take `most_seconds`."""
        self._current_run = object()
        least = min(_TIMED_SECONDS, most_seconds) if self._loader.device.type == "cuda" else 0.0
        steps, seconds = 0, 0.0
        while not steps or seconds < least:
            more_steps, more_seconds = self._timed(most_seconds)
            steps, seconds = steps + more_steps, seconds + more_seconds
        return steps * self.size * self._recipe.batch_size / seconds

    def _timed(self, most_seconds: float) -> tuple[int, float]:
        """Steps that were made, and their seconds."""
        for branch in self._branches:
            branch.set_idle()
        self._run(self._branches)
        self._wait()
        began = time.perf_counter()
        steps = 0
        while steps < _TIMED_STEPS and (not steps or time.perf_counter() - began < most_seconds):
            self._run(self._branches)
            steps += 1
        self._wait()
        return steps, time.perf_counter() - began

    def train(self, members: Sequence[Member]) -> Iterator[tuple[int, nn.Module, Trained | TrainingError]]:
        """Trains up to K members and yields each when it is done: its index, its network, its measurements.

        The network keeps its trained weights until the next one is requested, from this run or another. A member that
        diverged comes with its error; its NaN reach no other network. Every network starts in train mode, as in
        `loop.train`. `on_step` must leave it in train mode, because a captured step does not notice a change.

        A cohort has memory for one run. The next call of `train` or `images_per_second` ends the run before, which then
        raises a SettingError when it is resumed.

        The call itself checks the members, before anything is written.

        Raises:
            SettingError: more than K members, or a member that does not fit, named by its index.
            MaskError: a mask of another network.
        """
        self._check(members)
        self._current_run = run = object()
        return self._train(run, list(members))

    def _train(self, run: object, members: list[Member]) -> Iterator[tuple[int, nn.Module, Trained | TrainingError]]:
        self._check_current(run)
        branches = self._branches[: len(members)]
        for branch, member in zip(branches, members, strict=True):
            branch.load(member.state, member.loader, member.recipe, member.start_step)
            if member.saved is not None:
                branch.go_on(member.saved)
        for branch in self._branches[len(members) :]:
            branch.set_idle()
        self._restart(members)
        running = list(range(len(members)))
        running_members = [RunningMember(branch, self._optimizer, k) for k, branch in enumerate(branches)]
        while running:
            for k in list(running):
                try:
                    members[k].on_step(branches[k].step, running_members[k])
                except TrainingError as error:
                    running.remove(k)
                    branches[k].set_idle()
                    branches[k].forward.write_batch_counts()
                    yield k, branches[k].model, error
                self._check_current(run)
            if not running:
                return
            for k in running:
                branches[k].begin_step()
            self._run([branches[k] for k in running])
            for k in [k for k in running if branches[k].done]:
                running.remove(k)
                branch = branches[k]
                members[k].on_step(branch.step, running_members[k])
                self._check_current(run)
                result: Trained | TrainingError
                try:
                    result = trained(branch.last_losses(), branch.step - branch.start_step, branch.step)
                except TrainingError as error:
                    result = error
                branch.forward.write_batch_counts()
                yield k, branch.model, result
                self._check_current(run)

    def _check_current(self, run: object) -> None:
        """SettingError if another run has begun in the networks' memory. Called after every callback and yield."""
        if run is not self._current_run:
            raise SettingError(
                "this run of the cohort cannot go on: another run has begun in its memory since; "
                "finish one before the next, or give each a cohort of its own"
            )

    def _run(self, branches: Sequence[Branch]) -> None:
        """One step of these branches. A captured step also computes the idle ones."""
        self._optimizer.refresh_copies()
        with pinned_algorithms():
            if self._graph is not None:
                self._graph.replay()
            else:
                self._step(branches)

    def _wait(self) -> None:
        if self._loader.device.type == "cuda":
            torch.cuda.synchronize(self._loader.device)

    def _step(self, branches: Sequence[Branch]) -> None:
        """What a CUDA graph records: the gradients of each branch, then one launch of the optimizer for all."""
        self._optimizer.zero_grad()
        if self._loader.device.type == "cuda":
            on_streams(branches)
        else:
            for branch in branches:
                branch.compute()
        self._optimizer.step()

    def _restart(self, members: Sequence[Member]) -> None:
        """Writes the members' masks and optimizer state into the memory that a captured step reads."""
        masks = [member.mask for member in members] + [None] * (self.size - len(members))
        state: dict[str, dict[str, Tensor]] = {}
        for k, member in enumerate(members):
            flat = member.saved.optimizer if member.saved else member.optimizer_state or {}
            state |= {f"{k}.{name}": entry for name, entry in nested_state(flat).items()}
        self._optimizer.restart(mask_of_networks([branch.model for branch in self._branches], masks), state)

    def _check(self, members: Sequence[Member]) -> None:
        if not 1 <= len(members) <= self.size:
            raise SettingError(f"{len(members)} members for a cohort of {self.size}; expected 1 to {self.size}")
        for k, member in enumerate(members):
            if against := self._reason_against_member(member):
                raise SettingError(f"member {k}: {against}")
        networks = [branch.model for branch in self._branches[: len(members)]]
        mask_of_networks(networks, [member.mask for member in members])

    def _reason_against_member(self, member: Member) -> str:
        recipe, schedule, model = self._recipe, member.recipe.schedule, self._branches[0].model
        if replace(recipe, schedule=schedule) != member.recipe:
            return f"its recipe is {member.recipe}; the cohort's is {recipe}"
        if recipe.decoupled_weight_decay and schedule.peak != recipe.schedule.peak:
            return (
                f"its peak learning rate is {schedule.peak}, the cohort's {recipe.schedule.peak}, which decoupled "
                "weight decay divides by; train it in a cohort of its own"
            )
        if against := reason_against_loader(member.loader, recipe):
            return against
        if not self.shares_data_with(member.loader):
            return "its loader reads other data, or augments otherwise, than the cohort's"
        if not 0 <= member.start_step < recipe.steps:
            return f"its start_step is {member.start_step}; expected 0 to {recipe.steps - 1}"
        if unlike := difference_in_shapes(member.state, model.state_dict()):
            return f"its state {unlike}"
        if member.optimizer_state and not any(map(self._optimizer.keeps_state, self._optimizer.param_groups)):
            return "it brings optimizer state (momentum or the like), and its recipe trains without any"
        # Names as of `checkpoint.flat_state`: `parameter` or `parameter:key`. The state `parameter:step` is a number.
        buffers = {name: t for name, t in (member.optimizer_state or {}).items() if not name.endswith(":step")}
        parameters = dict(model.named_parameters())
        expected = {name: parameters[p] for name in buffers if (p := name.partition(":")[0]) in parameters}
        if unlike := difference_in_shapes(buffers, expected):
            return f"its optimizer state {unlike}"
        return ""


def _captured_or_none(
    step: Callable[[Sequence[Branch]], None], branches: Sequence[Branch]
) -> torch.cuda.CUDAGraph | None:
    """The step as a CUDA graph; None, with a line on standard error, if CUDA cannot record it: it then runs eagerly.

    Raises:
        torch.OutOfMemoryError: eagerly there would not be enough memory either.
    """
    try:
        return capture(step, branches)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        print(
            f"CUDA cannot record the training step as a graph; it runs without one, with the same results: {error}",
            file=sys.stderr,
        )
        torch.cuda.synchronize(branches[0].rate.device)  # raises if the device itself has failed
        return None
