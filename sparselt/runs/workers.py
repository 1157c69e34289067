"""Worker processes on this machine."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from sparselt.errors import SettingError
from sparselt.runs.claims import PATIENCE
from sparselt.runs.pool import Pool
from sparselt.runs.worker import start_worker
from sparselt.stopping import starting_processes

STOP_SECONDS = 10
SAVE_SECONDS = 600.0
"""The default time between two saves of a training: one of ResNet-50 takes a second or less."""


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
        with starting_processes():  # on demand
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


def default_workers(threads: int) -> int:
    """The number of cores that this process may use, divided by the threads of each training."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads))
