"""Runs the missing stages of a plan in worker processes on this machine."""

import heapq
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from typing import Any, Protocol

from sparselt.errors import SettingError
from sparselt.runs.claims import PATIENCE
from sparselt.runs.ledger import Entry, Status
from sparselt.runs.plan import Plan
from sparselt.runs.pool import NodeLost, Pool, result_of
from sparselt.runs.store import Store
from sparselt.runs.worker import Outcome, run_cohort, run_stage, start_worker
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train, equal_part

__all__ = ["Outcome", "Watcher", "Workers", "default_workers", "execute", "result_of", "run_stage"]

STOP_SECONDS = 10
_POLL = 0.2  # seconds
_TRIES = 3
_LOOK_SECONDS = 1.0  # seconds between two looks at what other runs work on
SAVE_SECONDS = 600.0
"""The default time between two saves of a training: one of ResNet-50 takes a second or less."""


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


class Workers(Pool):
    """A pool of worker processes on this machine that keep their imports from stage to stage.

    They are spawned, because the threads of Numba, FFCV and CUDA do not survive a fork.

    Args:
        count: number of processes, at least 1.
        cohort: how many trainings of one recipe a process makes side by side, at least 1. Default: on a GPU the best
            number by a short measurement, on a CPU one (see `sparselt.stages.train.Train`).
        devices: GPUs to assign to the processes in turn; each process sees only its own. Empty: all see the same as
            this process.
        save_seconds: how often trainings save their progress, above 0.
        patience: of the store, see `sparselt.runs.store.Store`.
    """

    def __init__(
        self,
        count: int,
        cohort: int | None = None,
        devices: Sequence[str] = (),
        save_seconds: float = SAVE_SECONDS,
        patience: float = PATIENCE,
    ):
        most = 8 * len(os.sched_getaffinity(0))
        if not 1 <= count <= most:
            raise SettingError(f"number of workers is {count}; expected at least 1 and at most {most}, 8 for each core")
        super().__init__(cohort, save_seconds, patience)
        self._count, self._devices = count, devices
        self._context = multiprocessing.get_context("spawn")
        self._queue = self._context.SimpleQueue()
        self._pool: ProcessPoolExecutor | None = None

    @property
    def count(self) -> int:
        return self._count

    @property
    def gpu_share(self) -> float:
        """As `Pool.gpu_share`: the processes share the GPUs evenly."""
        return min(1.0, max(1, len(self._devices)) / self._count)

    def __exit__(self, kind, *_) -> None:
        if self._pool is None:
            return
        if kind is not None:
            self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def signal(self, number: int) -> None:
        for process in self._processes():
            if process.is_alive():
                os.kill(process.pid, number)

    def stop(self) -> None:
        """Asks the processes to save and end, and kills those that take too long; all of them if it is interrupted."""
        self.signal(signal.SIGTERM)
        try:
            deadline = time.monotonic() + STOP_SECONDS
            for process in self._processes():
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self._processes():
                process.kill()

    def _processes(self) -> list[Any]:
        return list((self._pool._processes or {}).values()) if self._pool is not None else []

    def submit(self, function: Callable, *arguments) -> Future:
        """As `Pool.submit`; processes start on the first call."""
        if self._pool is None:
            devices = self._context.SimpleQueue()
            for number in range(self.count):
                devices.put(self._devices[number % len(self._devices)] if self._devices else None)
            self._pool = ProcessPoolExecutor(
                self.count,
                self._context,
                initializer=start_worker,
                initargs=(self._queue, devices, self._save_seconds, self._patience),
            )
        future = self._pool.submit(function, *arguments)
        future.add_done_callback(self._note)
        return future

    def progress(self) -> Iterator[tuple[str, int]]:
        while not self._queue.empty():
            yield self._queue.get()

    def restart_after(self, dead: Future, running: Iterable[Future]) -> list[Future]:
        """As `Pool.restart_after`. All processes start anew: `ProcessPoolExecutor` ends them all when one is killed."""
        self.restart()
        return list(running)

    def restart(self) -> None:
        """Ends all processes; the next call of `submit` starts new ones."""
        if self._pool is not None:
            for process in self._processes():
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._queue = self._context.SimpleQueue()  # a killed process may have held the lock of the old one


def execute(plan: Plan, store: Store, workers: Pool, watcher: Watcher) -> list[Entry]:
    """Runs the missing stages; returns the ledger of all stages, in the plan's order.

    Quick stages run first, then the stage that begins the longest chain of work. If a stage fails, the stages that
    need it are skipped, and all others run. A stage on which another run works is left to it, and found in the store
    once that run has made it. A stage whose error may be transient (a killed worker, a full disk) is tried three times.

    Raises:
        StoreError: the store has become read-only, or the workers cannot start (`Pool.can_start`). Finished stages are
            kept.
    """
    missing = {stage.key: stage for stage in plan.missing(store)}
    entries = {stage.key: _found(stage, store) for stage in plan.stages if stage.key not in missing}
    waits_for = {key: {file.stage.key for file in s.inputs.values()} & missing.keys() for key, s in missing.items()}
    needed_by: dict[str, list[str]] = {}
    for key, awaited in waits_for.items():
        for awaited_key in awaited:
            needed_by.setdefault(awaited_key, []).append(key)
    priority = _priorities(plan)
    ready = [(priority[key], key) for key, awaited in waits_for.items() if not awaited]
    heapq.heapify(ready)
    elsewhere: list[Stage] = []  # those that other runs work on
    running: dict[Future, list[Stage]] = {}
    tries: dict[str, int] = {}

    def end(stage: Stage, entry: Entry) -> None:
        entries[stage.key] = entry
        watcher.finished(stage, entry)
        if entry.status == "failed":
            for skipped in _descendants(stage, missing.values()):
                if skipped.key not in entries:
                    entries[skipped.key] = _ledger_entry(skipped, "skipped")
                    watcher.finished(skipped, entries[skipped.key])
        for key in needed_by.get(stage.key, ()):
            awaited = waits_for[key]
            awaited.discard(stage.key)
            if not awaited and key not in entries:
                heapq.heappush(ready, (priority[key], key))

    def try_again(stage: Stage, error: str, counts_as_try: bool = True) -> bool:
        """Makes the stage ready again, unless it has been tried three times. Returns whether it did."""
        tries[stage.key] = tries.get(stage.key, 1) + counts_as_try
        if tries[stage.key] > _TRIES:
            return False
        watcher.tried(stage, error)
        heapq.heappush(ready, (priority[stage.key], stage.key))
        return True

    looked = time.monotonic()
    while ready or running or elsewhere:
        while ready and len(running) < workers.count:
            stages: list[Stage] = []
            for stage in _take(ready, missing, workers, store, workers.count - len(running)):
                (elsewhere if store.taken(stage) else stages).append(stage)
            if stages:
                function, argument = (run_cohort, stages) if len(stages) > 1 else (run_stage, stages[0])
                running[workers.submit(function, argument, str(store.root))] = stages
        if running:
            done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
        else:
            done = set()
            time.sleep(_POLL)
        for key, work in workers.progress():
            watcher.progressed(missing[key], work)
        watcher.idle()
        for future in done:
            if future not in running:
                continue  # already tried again, because it was lost with another worker
            # A lost node is no fault of the stage, so it does not count as one of its tries.
            node_lost = isinstance(cause := future.exception(), NodeLost)
            if node_lost or (isinstance(cause, BrokenExecutor) and workers.can_start):
                why = str(cause) if node_lost else "a worker process was killed while it ran (out of memory?)"
                lost_futures = workers.restart_after(future, running)
                for stage in [stage for lost in lost_futures for stage in running.pop(lost)]:
                    error = f"{stage.name}: {why}"
                    if not try_again(stage, error, counts_as_try=not node_lost):
                        end(stage, replace(_ledger_entry(stage, "failed"), label=error))
                continue
            stages = running.pop(future)
            outcomes = result_of(future, *(stage.name for stage in stages))
            for stage, outcome in zip(stages, outcomes if isinstance(outcomes, list) else [outcomes], strict=True):
                if outcome.transient:
                    store.check_writable()
                if outcome.by_another:
                    elsewhere.append(stage)
                elif not (outcome.transient and try_again(stage, outcome.error)):
                    end(stage, _entry(stage, outcome))
        if elsewhere and time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            waiting, elsewhere[:] = list(elsewhere), []
            for stage in waiting:
                if not stage.runs_in_every_plan and store.has(stage):
                    end(stage, _found(stage, store))
                elif store.taken(stage):
                    elsewhere.append(stage)
                else:  # the other run has ended, or shows no sign of life
                    heapq.heappush(ready, (priority[stage.key], stage.key))
    return [entries[stage.key] for stage in plan.stages]


def default_workers(threads: int) -> int:
    """The number of cores that this process may use, divided by the threads of each training."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads))


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
