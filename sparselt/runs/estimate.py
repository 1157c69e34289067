"""How long a plan will take, from the costs of earlier equal stages or from a few timed steps."""

import re
import statistics
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import asdict, astuple, dataclass, field, replace

from sparselt.runs.plan import Plan
from sparselt.runs.pool import Pool, asked
from sparselt.runs.store import Store, read_record
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train
from sparselt.training.seconds import Timing

FFCV_SECONDS = 5.0  # in which it compiles what reads the first batches of a process (two EPYC cores)
# How long a worker repeats a step at least. Several do so for longer, because they do not begin at the same moment.
_ALONE_SECONDS, _TOGETHER_SECONDS = 0.2, 1.0
_NETWORK = re.compile(r"(?:step-\d+|final|weights)\.safetensors")


@dataclass(frozen=True)
class Speed:
    """Seconds for each unit of work, by kind of stage, in one worker. `basis` says how they were found; empty: not.

    besides: seconds of a stage that its units do not count, by kind.
    network: seconds for each network that a stage of these kinds reads or writes, or passes over as often.
    start: seconds that a worker takes before its first batch.
    together: stages that one worker makes at a time, by kind; each counts its part of their time. Default: 1.
    """

    seconds: Mapping[str, float]
    basis: str
    besides: Mapping[str, float] = field(default_factory=dict)
    together: Mapping[str, int] = field(default_factory=dict)
    network: float = 0.0
    start: float = 0.0

    def of(self, stage: Stage) -> float:
        """Estimated seconds of a stage."""
        units = self.seconds.get(stage.kind, 0.0) * stage.work
        if stage.kind not in self.besides:
            return units
        return units + self.besides[stage.kind] + self.network * (_networks(stage) + stage.extra_weight_passes)

    def total(self, stages: list[Stage], plan: Plan, workers: int) -> float:
        """Estimated seconds on `workers` processes: an equal share of the sum, or the longest chain if it is longer."""
        if not stages:
            return 0.0
        keys = {stage.key for stage in stages}
        # A stage that is made together with others ends no sooner than they do.
        chains = plan.longest_chains(
            lambda stage: self.of(stage) * self.together.get(stage.kind, 1) if stage.key in keys else 0.0
        )
        return self.start + max(sum(map(self.of, stages)) / workers, max(chains.values()))


def estimate(plan: Plan, store: Store, size: int, test_count: int, workers: Pool, cohort: int | None = None) -> Speed:
    """Seconds a unit, measured.

    Trainings that run side by side are timed so, on made-up images: on a GPU captured, as they train there. What is
    timed is the widest cohort of the plan; narrower ones, at its ends, take longer a network on a GPU.

    Args:
        plan: holds at least one training.
        store: its records of equal stages are used first.
        size: side of the training images in pixels.
        test_count: images evaluated at one point of a path.
        workers: where to time a few steps if the store has no record.
        cohort: trainings side by side in a worker; None: on a GPU the best number, measured, on a CPU one.

    Returns:
        Without `basis`, if the workers that timed the steps were killed.
    """
    training = plan.trainings()[0]
    examples = {stage.kind: stage for stage in plan.stages}
    known = {kind: cost for kind, stage in examples.items() if (cost := _known(store, stage)) is not None}
    if all(kind in known for kind, stage in examples.items() if stage.cost_depends_on):
        return Speed(known, "what equal stages cost before")
    timing = _timed(workers, min(workers.count, plan.width()), training, size)
    if timing is None:
        return Speed(known, "")
    step, image, together = timing.step, timing.image, {}
    if training.joins and (training.device != "cpu" or (cohort or 1) > 1):
        found = asked(workers, "a few timed steps", _time_together, training, size, cohort, plan.width())
        if found is not None:
            step, together[training.kind] = found
    unit = {"steps": step, "points": image * test_count}
    measured = {kind: unit.get(stage.unit, 0.0) for kind, stage in examples.items()}
    gradient = timing.step / training.recipe.batch_size
    besides = {kind: gradient * stage.extra_image_passes for kind, stage in examples.items() if kind not in known}
    if training.kind in besides:
        besides[training.kind] += image * test_count  # its test error
    side_by_side = together.get(training.kind, 1)
    basis = f"a few timed steps of {side_by_side} networks side by side" if side_by_side > 1 else "a few timed steps"
    if training.engine == "streaming":
        basis += ", without reading data"
    return Speed(measured | known, basis, besides, together, timing.network, timing.start)


def assumed_speed(plan: Plan, batch_size: int, test_count: int, images_per_second: float) -> Speed:
    """Seconds a unit if training makes so many images a second, and evaluation three times as many.

    Other work (masks, distances, reading data) counts as nothing. batch_size: of the setting, for stages that are not
    trainings; a training has its own.
    """
    unit = {"steps": batch_size / images_per_second, "points": test_count / (3 * images_per_second)}
    kinds = {stage.kind: unit.get(stage.unit, 0.0) for stage in plan.stages}
    return Speed(kinds, "an assumption")


def _known(store: Store, stage: Stage) -> float | None:
    """Median seconds a unit of the finished stages with equal cost; None if the store has none."""
    costs = []
    for path in (store.root / stage.kind).glob("*/stage.json"):
        record = read_record(path)
        alike = record and all(
            record["spec"].get(name) == stage.identity_values[name] for name in stage.cost_depends_on
        )
        if alike and record["steps"]:
            costs.append(record["seconds"] / record["steps"])
    return statistics.median(costs) if costs else None


def _networks(stage: Stage) -> int:
    """Files of weights that a stage reads and writes."""
    names = [*(file.name for file in stage.inputs.values()), *stage.outputs]
    return sum(_NETWORK.fullmatch(name) is not None for name in names)


def _timed(workers: Pool, count: int, training: Train, size: int) -> Timing | None:
    """The mean timing of `count` workers that measure at the same time, because busy cores slow each other down."""
    how = training, size, _TOGETHER_SECONDS if count > 1 else _ALONE_SECONDS
    beside = [workers.submit(_time, *how) for _ in range(count - 1)]
    timing = asked(workers, "a few timed steps", _time, *how)
    wait(beside)
    found = [future.result() for future in beside if not future.cancelled() and future.exception() is None]
    if timing is None:
        return None
    return Timing(*(statistics.mean(values) for values in zip(*map(astuple, [timing, *found]), strict=True)))


def _time(training: Train, size: int, least_seconds: float) -> Timing:
    from sparselt.data.streaming import picture_reader
    from sparselt.training.timing import time_training

    resident = training.engine == "resident"
    augmentation = asdict(training.augmentation) if resident else None
    network = training.recipe, training.classes, training.channels
    timing = time_training(*network, size, training.device, augmentation, least_seconds)
    compiles = training.engine == "streaming" and picture_reader() == "ffcv"
    return replace(timing, start=FFCV_SECONDS if compiles else 0.0)


def _time_together(training: Train, size: int, cohort: int | None, count: int) -> tuple[float, int] | None:
    from sparselt.stages.side_by_side import seconds_of_a_step

    return seconds_of_a_step(training, size, cohort, count)
