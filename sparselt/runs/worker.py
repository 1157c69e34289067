"""The work of a worker process: it runs a stage, or several together, and commits their files."""

import contextlib
import errno
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sparselt.errors import SparseltError, TrainingError, UnequalRanksError
from sparselt.files import NO_ROOM
from sparselt.runs.claims import PATIENCE
from sparselt.runs.store import ChangedFileError, Store
from sparselt.stages.stage import Stage, Task
from sparselt.stages.train import Train
from sparselt.stopping import Signals, follow_parent

_REPORT_EVERY = 0.3
_UNWRITABLE = NO_ROOM | {errno.EROFS}
_progress_queue = None
_signals = Signals()
_save_seconds = math.inf
_patience = PATIENCE


@dataclass(frozen=True)
class Outcome:
    """A worker's report on one stage: work done, seconds, UTC time of the end, and the error's text if it failed.

    Stages that ran side by side share the seconds equally. by_another: another run works on the stage, or has made it.
    transient: the error may not come again, such as that of a full disk. repeats: it will come again, as a divergence.
    """

    work: int
    seconds: float
    finished: str
    error: str = ""
    by_another: bool = False
    transient: bool = False
    repeats: bool = False


def run_stage(stage: Stage, root: str) -> Outcome:
    """Runs one stage in this process and commits its files. Returns errors as text, which can be pickled."""
    job = _Job.begun(stage, Store(Path(root), patience=_patience), 1)
    if isinstance(job, Outcome):
        return job
    try:
        return job.commit(_run(stage, job.task()))
    except Exception as error:
        return job.failed(error)
    finally:
        job.close()


def _run(stage: Stage, task: Task) -> int:
    """Runs a stage. On a GPU a training that could join others runs as they do, so that its bits are the same."""
    if not isinstance(stage, Train) or stage.device == "cpu" or not stage.joins:
        from sparselt.training.cpu import cpu_threads

        threads = getattr(stage, "threads", None)
        with contextlib.nullcontext() if threads is None else cpu_threads(threads):
            return stage.run(task)
    from sparselt.stages.side_by_side import train_side_by_side

    ((_, made),) = train_side_by_side([(stage, task)])
    if isinstance(made, Exception):
        raise made
    return made


def run_cohort(stages: Sequence[Train], root: str) -> list[Outcome]:
    """Trains the networks of several stages side by side. If one fails, the others are still committed.

    If memory runs out, those that are left are trained in two halves, one after the other.
    """
    import torch

    from sparselt.stages.side_by_side import forget_cohort, train_side_by_side

    store = Store(Path(root), patience=_patience)
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, _Job] = {}
    halves: list[list[int]] = []
    try:
        tasks: dict[int, Task] = {}
        for k, stage in enumerate(stages):
            job = _Job.begun(stage, store, len(stages))
            if isinstance(job, Outcome):
                outcomes[k] = job
                continue
            jobs[k] = job
            try:
                tasks[k] = job.task()
            except SparseltError as error:
                outcomes[k] = job.failed(error)
        places = list(tasks)
        for place, result in train_side_by_side([(stages[k], task) for k, task in tasks.items()]) if tasks else ():
            k = places[place]
            outcomes[k] = jobs[k].failed(result) if isinstance(result, Exception) else jobs[k].commit(result)
    except Exception as error:
        left = [k for k in jobs if k not in outcomes]
        if isinstance(error, torch.OutOfMemoryError) and len(left) > 1:
            halves = [left[: len(left) // 2], left[len(left) // 2 :]]
            print(
                f"{len(left)} networks side by side do not fit the memory: going on with half of them", file=sys.stderr
            )
        else:
            outcomes |= {k: jobs[k].failed(error) for k in left}
    finally:
        for job in jobs.values():
            job.close()
    for half in halves:
        forget_cohort()
        outcomes |= dict(zip(half, run_cohort([stages[k] for k in half], root), strict=True))
    return [outcomes[k] for k in range(len(stages))]


def measure_cohort(stage: Train, root: str) -> int:
    """The best number of such trainings side by side on the device; 1 if it cannot be measured."""
    from sparselt.stages.side_by_side import best_group_size

    with tempfile.TemporaryDirectory() as folder:
        try:
            return best_group_size(stage, stage.batches(_task(stage, Store(Path(root)), Path(folder))))
        except Exception as error:  # the training itself will say what is wrong
            print(f"networks are trained one at a time, for their speed cannot be measured: {error}", file=sys.stderr)
            return 1


def start_worker(queue, devices, save_seconds: float, patience: float) -> None:
    """Sets this process up: it reports progress to `queue`, sees the GPU that `devices` gives it (None: all), saves its
    trainings every so many seconds and when signals ask for it, and ends with its parent.

    patience: see `Store`.
    """
    from sparselt.training.cpu import keep_memory, set_arithmetic

    global _progress_queue, _save_seconds, _patience
    set_arithmetic()
    keep_memory()
    _progress_queue, _save_seconds, _patience = queue, save_seconds, patience
    follow_parent(_signals)
    device = devices.get()
    # Each network of a cohort has its own stream; above this number of connections, streams wait for each other. Both
    # are read when CUDA starts, which it has not yet in a spawned process.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


class _Job:
    """One claimed stage, from its inputs to its place in the store."""

    def __init__(self, stage: Stage, store: Store, folder: Path, together: int):
        self._stage, self._store, self._folder, self._together = stage, store, folder, together
        self._began = time.perf_counter() - _spent(stage, folder)
        self._written: dict[str, str] = {}

    @classmethod
    def begun(cls, stage: Stage, store: Store, together: int) -> "_Job | Outcome":
        """Claims the stage. An outcome if another run works on it, or has just made it."""
        another = Outcome(0, 0.0, _now(), by_another=True)
        try:
            folder = store.begin(stage)
        except OSError as error:
            return Outcome(0, 0.0, _now(), f"{stage.name}: {_told(error, store.root)}", transient=True)
        if folder is None:
            return another
        job = cls(stage, store, folder, together)
        if not stage.runs_in_every_plan and store.made_meanwhile(stage):
            job.close()
            return another
        return job

    def task(self) -> Task:
        """The stage's task. Raises StoreError if an input is damaged."""
        task = _task(self._stage, self._store, self._folder)
        self._written = task.written
        return task

    def commit(self, work: int) -> Outcome:
        seconds, finished = self._seconds(), _now()
        try:
            self._store.commit(
                self._stage, self._folder, seconds=seconds, work=work, finished=finished, written=self._written
            )
        except (OSError, SparseltError) as error:
            return self.failed(error)
        return Outcome(work, seconds, finished)

    def failed(self, error: Exception) -> Outcome:
        if self._store.lost(self._folder):
            return Outcome(0, self._seconds(), _now(), by_another=True)
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        unwritable = isinstance(cause, OSError) and cause.errno in _UNWRITABLE
        if unwritable or isinstance(error, OSError):
            text = _told(cause, self._folder)
        elif isinstance(error, SparseltError):
            text = str(error)
        else:
            text = "".join(traceback.format_exception(error)).strip()
        if type(error).__name__ == "OutOfMemoryError":
            parts = 2 * self._stage.recipe.micro_batches if isinstance(self._stage, Train) else 2
            text += (
                "\nIt does not fit the memory: give fewer --workers, or compute each batch in parts with --set "
                f"micro_batches={parts}, whose batch-norm statistics are of each part."
            )
        transient = unwritable or isinstance(error, ChangedFileError) or not isinstance(error, SparseltError)
        repeats = isinstance(error, TrainingError) and not isinstance(error, UnequalRanksError)
        return Outcome(0, self._seconds(), _now(), f"{self._stage.name}: {text}", transient=transient, repeats=repeats)

    def close(self) -> None:
        _signals.trainings = 0
        self._store.discard(self._folder)

    def _seconds(self) -> float:
        return (time.perf_counter() - self._began) / self._together


def _told(error: BaseException, folder: Path) -> str:
    """The text for an OSError. A full disk is named by the file, or else by the folder that was written to."""
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return str(error)
    return f"{error.filename or folder} cannot be written ({error.strerror}); make room on that file system"


def _task(stage: Stage, store: Store, folder: Path) -> Task:
    paths = {file: store.verify(file) for file in stage.inputs.values()}
    return Task(paths, stage.outputs, folder, _reporter(stage), _signals, _save_seconds)


def _spent(stage: Stage, folder: Path) -> float:
    """The seconds that earlier runs spent on a stage whose progress is in its folder."""
    if not isinstance(stage, Train):
        return 0.0
    from sparselt.training.progress import spent_before

    return spent_before(folder)


def _reporter(stage: Stage) -> Callable[[int], None]:
    last = 0.0

    def report(work: int) -> None:
        nonlocal last
        now = time.monotonic()
        if _progress_queue is not None and now - last > _REPORT_EVERY:
            last = now
            _progress_queue.put((stage.key, work))

    return report


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
