"""How long a plan takes on many workers: its schedule, simulated, with preemptions."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from sparselt.runs.plan import Plan
from sparselt.stages.stage import Stage

SAVE, RESTART = 600.0, 120.0
"""Assumed seconds: between two saves of a training, and from a preemption until the work goes on."""


@dataclass(frozen=True)
class Schedule:
    """A plan on so many workers.

    seconds: until its end. busy: the share of the workers' time that is worked, in [0, 1]. preempted: seconds until its
    end if every worker is preempted every so often.
    """

    workers: int
    seconds: float
    busy: float
    preempted: float


def simulate(plan: Plan, cost: Callable[[Stage], float], workers: int, every: float) -> Schedule:
    """Gives each free worker the ready stage that begins the longest chain, as the executor does.

    Args:
        cost: seconds of a stage on one worker.
        every: seconds of work between two preemptions of a worker. Each costs half the time between two saves, on
            average, and a restart.
    """
    seconds = _makespan(plan, cost, workers)
    worked = sum(map(cost, plan.stages))

    def with_preemptions(stage: Stage) -> float:
        return cost(stage) * (1 + (SAVE / 2 + RESTART) / every)

    busy = worked / (workers * seconds) if seconds else 0.0
    return Schedule(workers, seconds, busy, _makespan(plan, with_preemptions, workers))


def _makespan(plan: Plan, cost: Callable[[Stage], float], workers: int) -> float:
    longest = plan.longest_chains(cost)
    stages = {stage.key: stage for stage in plan.stages}
    waits = {key: len({file.stage.key for file in stage.inputs.values()}) for key, stage in stages.items()}
    needed_by: dict[str, list[str]] = {}
    for key, stage in stages.items():
        for need in {file.stage.key for file in stage.inputs.values()}:
            needed_by.setdefault(need, []).append(key)
    ready = [(-longest[key], key) for key, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, key = heapq.heappop(ready)
            heapq.heappush(running, (now + cost(stages[key]), key))
        now, done = heapq.heappop(running)
        for key in needed_by.get(done, ()):
            waits[key] -= 1
            if not waits[key]:
                heapq.heappush(ready, (-longest[key], key))
    return now
