"""Runs the missing stages of a plan, on workers of any pool."""

import heapq
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import replace
from typing import Protocol

from sparselt.runs.ledger import Entry, Status
from sparselt.runs.plan import Plan
from sparselt.runs.pool import NodeLost, Pool, result_of
from sparselt.runs.store import Store
from sparselt.runs.worker import Outcome, run_cohort, run_stage
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train, equal_part

_POLL = 0.2  # seconds
_TRIES = 3
_LOOK_SECONDS = 1.0  # seconds between two looks at what other runs work on


class Watcher(Protocol):
    """Receives the progress of a run: the display, or a test."""

    def progressed(self, stage: Stage, work: int) -> None:
        """A running stage has done `work` units."""

    def finished(self, stage: Stage, entry: Entry) -> None:
        """A stage has ended, or was skipped."""

    def tried(self, stage: Stage, error: str) -> None:
        """A stage has failed and will be tried again."""

    def idle(self) -> None:
        """Called a few times a second."""


def execute(
    plan: Plan, store: Store, workers: Pool, watcher: Watcher, missing: Iterable[Stage] | None = None
) -> list[Entry]:
    """Runs the missing stages; returns the ledger of all stages, in the plan's order.

    Quick stages run first, then the stage that begins the longest chain of work. If a stage fails, the stages that
    need it are skipped, and all others run. A stage on which another run works is left to it, and found in the store
    once that run has made it. A stage whose error may be transient (a killed worker, a full disk) is tried three times.

    missing: what `plan.missing(store)` has just returned, if the caller has asked already.

    Raises:
        StoreError: the store has become read-only, or the workers cannot start (`Pool.can_start`). Finished stages are
            kept.
    """
    execution = _Execution(plan, store, workers, watcher, plan.missing(store) if missing is None else missing)
    execution.run()
    return [execution.entries[stage.key] for stage in plan.stages]


class _Execution:
    """The state of `execute`. Each missing stage waits, is ready, runs (here or in another run), or has an entry.

    entries: the ledger so far, by key.
    """

    def __init__(self, plan: Plan, store: Store, workers: Pool, watcher: Watcher, missing: Iterable[Stage]):
        self._store, self._workers, self._watcher = store, workers, watcher
        self._missing = {stage.key: stage for stage in missing}
        self.entries = {stage.key: _found(stage, store) for stage in plan.stages if stage.key not in self._missing}
        self._waits_for = {
            key: {file.stage.key for file in stage.inputs.values()} & self._missing.keys()
            for key, stage in self._missing.items()
        }
        self._needed_by: dict[str, list[str]] = {}
        for key, awaited in self._waits_for.items():
            for awaited_key in awaited:
                self._needed_by.setdefault(awaited_key, []).append(key)
        self._priority = _priorities(plan)
        self._ready: list[tuple] = []  # a heap of priorities and keys
        for key, awaited in self._waits_for.items():
            if not awaited:
                self._make_ready(key)
        self._running: dict[Future, list[Stage]] = {}
        self._elsewhere: list[Stage] = []  # those that other runs work on
        self._looked_elsewhere = time.monotonic()
        self._tries: dict[str, int] = {}

    def run(self) -> None:
        """Goes on until every stage has an entry."""
        while self._ready or self._running or self._elsewhere:
            self._submit_ready()
            done = self._wait()
            for key, work in self._workers.progress():
                self._watcher.progressed(self._missing[key], work)
            self._watcher.idle()
            for future in done:
                if future in self._running:  # else it was lost with another worker, and its stages are ready again
                    self._receive(future)
            if self._elsewhere and time.monotonic() - self._looked_elsewhere > _LOOK_SECONDS:
                self._look_elsewhere()

    def _submit_ready(self) -> None:
        """Gives each free worker a stage, or trainings that go together."""
        workers = self._workers
        while self._ready and (free := workers.count - len(self._running)) > 0:
            stages: list[Stage] = []
            for stage in _take(self._ready, self._missing, workers, self._store, free):
                (self._elsewhere if self._store.taken(stage) else stages).append(stage)
            if stages:
                function, argument = (run_cohort, stages) if len(stages) > 1 else (run_stage, stages[0])
                self._running[workers.submit(function, argument, str(self._store.root))] = stages

    def _wait(self) -> Iterable[Future]:
        """Waits a moment, or until a worker is done. Returns what is done."""
        if self._running:
            return wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED).done
        time.sleep(_POLL)
        return ()

    def _receive(self, future: Future) -> None:
        """Handles a worker that has finished its stages, or was lost."""
        cause = future.exception()
        if isinstance(cause, NodeLost) or (isinstance(cause, BrokenExecutor) and self._workers.can_start):
            self._restart_workers(future, cause)
            return
        stages = self._running.pop(future)
        outcomes = result_of(future, *(stage.name for stage in stages))
        for stage, outcome in zip(stages, outcomes if isinstance(outcomes, list) else [outcomes], strict=True):
            if outcome.transient:
                self._store.check_writable()
            if outcome.by_another:
                self._elsewhere.append(stage)
            elif not (outcome.transient and self._try_again(stage, outcome.error)):
                self._end(stage, _entry(stage, outcome))

    def _restart_workers(self, dead: Future, cause: BrokenExecutor) -> None:
        """Restarts the pool. The stages that were lost with the dead worker become ready again."""
        # A lost node is no fault of the stage, so it does not count as one of its tries.
        node_lost = isinstance(cause, NodeLost)
        why = str(cause) if node_lost else "a worker process was killed while it ran (out of memory?)"
        lost = self._workers.restart_after(dead, self._running)
        for stage in [stage for future in lost for stage in self._running.pop(future)]:
            error = f"{stage.name}: {why}"
            if not self._try_again(stage, error, counts_as_try=not node_lost):
                self._end(stage, replace(_ledger_entry(stage, "failed"), label=error))

    def _look_elsewhere(self) -> None:
        """Looks at the stages of other runs: those made meanwhile have ended, those given up become ready."""
        self._looked_elsewhere = time.monotonic()
        waiting, self._elsewhere = self._elsewhere, []
        for stage in waiting:
            if not stage.runs_in_every_plan and self._store.has(stage):
                self._end(stage, _found(stage, self._store))
            elif self._store.taken(stage):
                self._elsewhere.append(stage)
            else:  # the other run has ended, or shows no sign of life
                self._make_ready(stage.key)

    def _end(self, stage: Stage, entry: Entry) -> None:
        """Notes the end of a stage. Stages that waited for it alone become ready; if it failed, they are skipped."""
        self._note(stage, entry)
        if entry.status == "failed":
            for skipped in _descendants(stage, self._missing.values()):
                if skipped.key not in self.entries:
                    self._note(skipped, _ledger_entry(skipped, "skipped"))
        for key in self._needed_by.get(stage.key, ()):
            awaited = self._waits_for[key]
            awaited.discard(stage.key)
            if not awaited and key not in self.entries:
                self._make_ready(key)

    def _note(self, stage: Stage, entry: Entry) -> None:
        self.entries[stage.key] = entry
        self._watcher.finished(stage, entry)

    def _try_again(self, stage: Stage, error: str, counts_as_try: bool = True) -> bool:
        """Makes the stage ready again, unless it has been tried three times. Returns whether it did."""
        self._tries[stage.key] = self._tries.get(stage.key, 1) + counts_as_try
        if self._tries[stage.key] > _TRIES:
            return False
        self._watcher.tried(stage, error)
        self._make_ready(stage.key)
        return True

    def _make_ready(self, key: str) -> None:
        heapq.heappush(self._ready, (self._priority[key], key))


def _priorities(plan: Plan) -> dict[str, tuple[bool, float]]:
    """Sort keys by stage; the smallest runs first. Quick stages come first, then those of the longest chain of work."""
    remaining = plan.remaining_work()
    return {stage.key: (not stage.quick, -remaining[stage.key]) for stage in plan.stages}


def _take(ready: list[tuple], missing: Mapping[str, Stage], workers: Pool, store: Store, free: int) -> list[Stage]:
    """Removes the first stage from the heap, and the stages to be trained together with it.

    free: workers without a stage. Trainings of one recipe are shared among them.
    """
    stage = missing[heapq.heappop(ready)[1]]
    if not isinstance(stage, Train) or not workers.joins(stage):
        return [stage]
    mates = stage.mates(missing[key] for _, key in sorted(ready))
    if not mates:
        return [stage]
    most, count = workers.cohort_of(stage, store.root), 1 + len(mates)
    # Parts of one size, because a CUDA graph that was captured for one part serves the next part too.
    stages: list[Stage] = [stage, *mates[: equal_part(count, most, free) - 1]]
    keys = {stage.key for stage in stages}
    ready[:] = [entry for entry in ready if entry[1] not in keys]
    heapq.heapify(ready)
    return stages


def _entry(stage: Stage, outcome: Outcome) -> Entry:
    entry = _ledger_entry(stage, "failed" if outcome.error else "ran", outcome.work, outcome.seconds, outcome.finished)
    return replace(entry, label=outcome.error, repeats=outcome.repeats) if outcome.error else entry


def _found(stage: Stage, store: Store) -> Entry:
    record = store.record(stage)
    work = record["steps"]  # the work in the stage's own unit, whatever that is
    return _ledger_entry(stage, "found", work, record["seconds"], record["finished"])


def _ledger_entry(stage: Stage, status: Status, work: int = 0, seconds: float = 0.0, finished: str = "") -> Entry:
    return Entry(stage.key, stage.kind, stage.label, status, work, seconds, finished, stage.title, stage.unit)


def _descendants(failed: Stage, stages: Iterable[Stage]) -> list[Stage]:
    """The stages that cannot run without `failed`. stages: in the plan's order, each after the stages of its inputs."""
    keys, descendants = {failed.key}, []
    for stage in stages:
        if any(file.stage.key in keys for file in stage.inputs.values()):
            keys.add(stage.key)
            descendants.append(stage)
    return descendants
