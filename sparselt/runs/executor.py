"""Runs the missing stages of a plan in worker processes on this machine."""

import heapq
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sparselt.errors import SettingError, SparseltError, StoreError
from sparselt.runs.kinds import KINDS, Task
from sparselt.runs.ledger import Entry
from sparselt.runs.plan import Plan
from sparselt.runs.stage import Stage
from sparselt.runs.store import Store

_REPORT_EVERY = 0.3
_progress_queue = None


class Watcher(Protocol):
    """Who is told how a run goes: the progress display, or a test."""

    def progressed(self, stage: Stage, steps: int) -> None:
        """`steps` units of a running stage are done."""

    def finished(self, stage: Stage, entry: Entry) -> None:
        """A stage ended, well or not."""

    def idle(self) -> None:
        """Called a few times a second."""


@dataclass(frozen=True)
class Outcome:
    """What a worker says of one stage: units made, seconds, UTC time of the end, and the error's text if it failed."""

    steps: int
    seconds: float
    finished: str
    error: str = ""


class Workers:
    """A pool of worker processes that keep their imports from stage to stage.

    Spawned rather than forked: Numba's, FFCV's and CUDA's threads do not survive a fork.

    Args:
        count: number of processes, at least 1.
    """

    def __init__(self, count: int):
        most = 8 * len(os.sched_getaffinity(0))
        if not 1 <= count <= most:
            raise SettingError(f"number of workers is {count}; expected at least 1 and at most {most}, 8 for each core")
        self.count = count
        self._context = multiprocessing.get_context("spawn")
        self.queue = self._context.SimpleQueue()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind, *_) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable, *arguments) -> Future:
        """Runs `function(*arguments)` in a worker; processes start on the first call."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.count, self._context, initializer=_start_worker, initargs=(self.queue,)
            )
        return self._pool.submit(function, *arguments)


def execute(plan: Plan, store: Store, workers: Workers, watcher: Watcher) -> list[Entry]:
    """Runs what is missing; returns the ledger of all stages of the plan, in the plan's order.

    The stage with the longest chain behind it goes first. A stage that fails takes only those with it that need it; the
    others go on.

    Raises:
        StoreError: a worker process was killed (out of memory?). What had finished is kept.
    """
    missing = {stage.key: stage for stage in plan.missing(store)}
    entries = {stage.key: _found(stage, store) for stage in plan.stages if stage.key not in missing}
    waits_for = {key: {n.stage.key for n in s.needs.values()} & missing.keys() for key, s in missing.items()}
    priority = plan.remaining_work()
    ready = [(-priority[key], key) for key, needs in waits_for.items() if not needs]
    heapq.heapify(ready)
    running: dict[Future, Stage] = {}
    while ready or running:
        while ready and len(running) < workers.count:
            stage = missing[heapq.heappop(ready)[1]]
            running[workers.submit(run_stage, stage, str(store.root))] = stage
        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        while not workers.queue.empty():
            key, steps = workers.queue.get()
            watcher.progressed(missing[key], steps)
        watcher.idle()
        for future in done:
            stage = running.pop(future)
            entry = _entry(stage, _result(future, stage))
            entries[stage.key] = entry
            watcher.finished(stage, entry)
            if entry.status == "failed":
                for lost in _descendants(stage, missing.values()):
                    if lost.key not in entries:
                        waits_for.pop(lost.key)
                        entries[lost.key] = Entry(lost.key, lost.kind, lost.label, "skipped", 0, 0.0, "")
                        watcher.finished(lost, entries[lost.key])
            for key, needs in waits_for.items():
                if stage.key in needs:
                    needs.remove(stage.key)
                    if not needs:
                        heapq.heappush(ready, (-priority[key], key))
    return [entries[stage.key] for stage in plan.stages]


def run_stage(stage: Stage, root: str) -> Outcome:
    """Runs one stage in this process and commits its files. An error comes back as text, which survives pickling."""
    store = Store(Path(root))
    temporary = store.begin(stage)
    began = time.perf_counter()
    try:
        task = Task(
            spec=stage.spec,
            inputs={name: store.verify(need.stage, need.file) for name, need in stage.needs.items()},
            outputs=stage.outputs,
            folder=temporary,
            report=_reporter(stage),
            local=stage.local,
        )
        steps = KINDS[stage.kind].run(task)
        seconds = time.perf_counter() - began
        finished = _now()
        store.commit(stage, temporary, seconds=seconds, steps=steps, finished=finished)
        return Outcome(steps, seconds, finished)
    except Exception as error:
        expected = isinstance(error, SparseltError | OSError)
        text = str(error) if expected else traceback.format_exc().strip()
        return Outcome(0, time.perf_counter() - began, _now(), f"{stage.label or stage.kind}: {text}")
    finally:
        store.discard(temporary)


def default_workers(threads: int) -> int:
    """As many processes as cores that this process may use, divided by the threads of each training."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads))


def _start_worker(queue) -> None:
    global _progress_queue
    _progress_queue = queue
    # Ctrl-C reaches the whole process group; the parent decides what happens to the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that was killed cannot stop its workers, and each holds hundreds of megabytes.
    multiprocessing.parent_process().join()
    os._exit(1)


def _reporter(stage: Stage) -> Callable[[int], None]:
    last = 0.0

    def report(steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if _progress_queue is not None and now - last > _REPORT_EVERY:
            last = now
            _progress_queue.put((stage.key, steps))

    return report


def _result(future: Future, stage: Stage) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise StoreError(
            f"a worker process was killed while it ran '{stage.label or stage.kind}' (out of memory?); what had "
            "finished is kept: run the same command again, with fewer --workers"
        ) from error


def _entry(stage: Stage, outcome: Outcome) -> Entry:
    status = "failed" if outcome.error else "ran"
    return Entry(
        stage.key, stage.kind, outcome.error or stage.label, status, outcome.steps, outcome.seconds, outcome.finished
    )


def _found(stage: Stage, store: Store) -> Entry:
    record = store.record(stage)
    return Entry(stage.key, stage.kind, stage.label, "found", record["steps"], record["seconds"], record["finished"])


def _descendants(lost: Stage, stages: Iterable[Stage]) -> list[Stage]:
    gone, found = {lost.key}, []
    for stage in stages:  # in the plan's order: needs come first
        if any(need.stage.key in gone for need in stage.needs.values()):
            gone.add(stage.key)
            found.append(stage)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
