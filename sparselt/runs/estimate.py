"""How long a plan will take: from what equal trainings cost before, or from a few timed steps."""

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparselt.runs.executor import Workers, result_of
from sparselt.runs.kinds import KINDS
from sparselt.runs.plan import Plan
from sparselt.runs.specs import recipe_from_spec
from sparselt.runs.stage import Stage, plain
from sparselt.runs.store import Store, read_record

# What of a spec decides the cost of a unit: one store holds the stages of several settings.
_COST_FOLLOWS = {"steps": ("recipe", "device", "train"), "points": ("model", "device", "engine", "eval")}
_TIMED_STEPS = 12
_CUDA_BATCH = 256
_CPU_PIXELS = 10 * 224 * 224


@dataclass(frozen=True)
class Speed:
    """Seconds for each unit of a kind of stage, in one worker; `basis` says where the numbers come from."""

    seconds: Mapping[str, float]
    basis: str

    def of(self, stage: Stage) -> float:
        """Estimated seconds of a stage."""
        return self.seconds.get(stage.kind, 0.0) * stage.steps

    def total(self, stages: list[Stage], plan: Plan, workers: int) -> float:
        """Estimated seconds on `workers` processes: the sum shared out, or the longest chain if that is more."""
        if not stages:
            return 0.0
        longest: dict[str, float] = {}
        keys = {stage.key for stage in stages}
        for stage in reversed(plan.stages):
            own = longest.get(stage.key, 0.0) + (self.of(stage) if stage.key in keys else 0.0)
            longest[stage.key] = own
            for need in stage.needs.values():
                longest[need.stage.key] = max(longest.get(need.stage.key, 0.0), own)
        return max(sum(map(self.of, stages)) / workers, max(longest.values()))


def estimate(plan: Plan, store: Store, size: int, test_count: int, workers: Workers) -> Speed:
    """Seconds a unit, measured.

    Args:
        plan: holds at least one training.
        store: its records of finished stages with the same recipe and device come first.
        size: side of the training images in pixels.
        test_count: images that one point of a path evaluates.
        workers: where to time a few steps if the store knows nothing.
    """
    training = plan.trainings()[0]
    examples = {stage.kind: stage for stage in plan.stages}
    known = {kind: cost for kind, stage in examples.items() if (cost := _known(store, stage)) is not None}
    if all(kind in known for kind in examples if KINDS[kind].counts in _COST_FOLLOWS):
        return Speed(known, "what equal stages cost before")
    step, image = result_of(workers.submit(_measure, dict(training.spec), size), "a few timed steps")
    unit = {"steps": step, "points": image * test_count}
    measured = {kind: unit.get(KINDS[kind].counts, 0.0) for kind in examples}
    return Speed(measured | known, "a few timed steps, without reading data")


def _known(store: Store, stage: Stage) -> float | None:
    """Median seconds a unit of the finished stages that cost what this one will; None if there is none."""
    alike = _COST_FOLLOWS.get(KINDS[stage.kind].counts, ())
    costs = []
    for path in (store.root / stage.kind).glob("*/stage.json"):
        record = read_record(path)
        if record and record["steps"] and all(record["spec"].get(name) == plain(stage.spec[name]) for name in alike):
            costs.append(record["seconds"] / record["steps"])
    return statistics.median(costs) if costs else None


def _measure(spec: Mapping[str, Any], size: int) -> tuple[float, float]:
    """Seconds of a training step, and of evaluating one image, on random pixels.

    A batch too large to time is timed in part and scaled: on a CPU 2,048 images of 224 pixels take minutes.
    """
    import torch
    from torch.nn import functional as F

    from sparselt.models import build_model
    from sparselt.optim import MaskedSGD
    from sparselt.training.cpu import cpu_threads
    from sparselt.training.loop import autocast

    recipe = recipe_from_spec(spec["recipe"])
    device = torch.device(spec["device"])
    affordable = _CPU_PIXELS // (size * size) if device.type == "cpu" else _CUDA_BATCH
    batch = max(2, min(recipe.batch_size, affordable))
    with cpu_threads(min(recipe.threads, len(os.sched_getaffinity(0)))):
        model = build_model(recipe.model, classes=spec["classes"], channels=spec["channels"], seed=0).to(device)
        optimizer = MaskedSGD(model.named_parameters(), lr=1e-3, momentum=0.9)
        images = torch.randn(batch, spec["channels"], size, size, device=device)
        images = images.to(memory_format=torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.long, device=device)

        def step() -> None:
            with autocast(device, recipe.precision):
                loss = F.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def forward() -> None:
            with torch.no_grad(), autocast(device, recipe.precision):
                model(images)

        seconds = _median_seconds(step, device) * recipe.batch_size / batch
        model.eval()
        return seconds, _median_seconds(forward, device) / batch


def _median_seconds(call, device) -> float:
    import torch

    times: list[float] = []
    deadline = time.perf_counter() + 8.0
    while len(times) < _TIMED_STEPS and (len(times) < 3 or time.perf_counter() < deadline):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
