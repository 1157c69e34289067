"""What `execute` asks of its workers, wherever they are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, Self

from sparselt.errors import SettingError, StoreError
from sparselt.runs.program import own_script
from sparselt.runs.worker import measure_cohort
from sparselt.stages.train import Train

_TRIES = 3
_MOST_TOGETHER = 31  # torch has 32 streams to give, and one is the capture's


class NodeLost(BrokenExecutor):
    """The machine of a worker was lost while it ran a stage."""


class Pool(ABC):
    """Workers that each run one stage at a time. Use it in a `with` block, which ends them; after an exception as
    SIGTERM does.

    Args:
        cohort: how many trainings of one recipe a worker makes side by side, at least 1. Default: on a GPU the best
            number by a short measurement, on a CPU one (see `sparselt.stages.train.Train`).
        save_seconds: how often trainings save their progress, above 0.
        patience: of the store, see `sparselt.runs.store.Store`.
    """

    def __init__(self, cohort: int | None, save_seconds: float, patience: float):
        if cohort is not None and not 1 <= cohort <= _MOST_TOGETHER:
            raise SettingError(f"cohort is {cohort} networks; expected 1 to {_MOST_TOGETHER}")
        if not save_seconds > 0:
            raise SettingError(f"--save-minutes is {save_seconds / 60:g}; expected more than 0")
        self._cohort, self._save_seconds, self._patience = cohort, save_seconds, patience
        self._measured: dict[str | None, int] = {}
        self.ever_worked = False

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind, *_) -> None: ...

    @property
    @abstractmethod
    def count(self) -> int:
        """How many stages may run at a time, now."""

    @property
    @abstractmethod
    def gpu_share(self) -> float:
        """The part of a GPU that each worker has, at most 1."""

    @property
    def can_start(self) -> bool:
        """False if none has answered yet, and the user's script is run by each: it may start workers without end."""
        return self.ever_worked or not own_script()

    @abstractmethod
    def submit(self, function: Callable, *arguments) -> Future:
        """Runs `function(*arguments)` in a worker. The future raises BrokenExecutor if the worker was killed."""

    @abstractmethod
    def progress(self) -> Iterable[tuple[str, int]]:
        """Keys of stages that run, and the work that they have done since the last call."""

    @abstractmethod
    def signal(self, number: int) -> None:
        """Sends a signal to the workers, see `sparselt.stopping`."""

    @abstractmethod
    def restart_after(self, dead: Future, running: Iterable[Future]) -> list[Future]:
        """Makes the pool usable again after the worker of `dead` was killed.

        Returns the futures of `running` that are lost with it; `dead` is one of them.
        """

    def joins(self, stage: Train) -> bool:
        """Whether this training may be made side by side with others."""
        return self._cohort != 1 and (self._cohort is not None or stage.device != "cpu")

    def cohort_of(self, stage: Train, root: Path) -> int:
        """How many trainings like this one to make side by side. On a GPU this is measured once for each group."""
        if not self.joins(stage) or self._cohort is not None:
            return self._cohort or 1
        group = stage.group
        if group not in self._measured:
            self._measured[group] = asked(self, stage.name, measure_cohort, stage, str(root)) or 1
        return self._measured[group]

    def _note(self, future: Future) -> None:
        self.ever_worked |= not future.cancelled() and not isinstance(future.exception(), BrokenExecutor)


def asked(workers: Pool, what: str, function: Callable, *arguments) -> Any:
    """The return value of a function in a worker, without which a run can do; None if three workers were killed in it.

    Raises:
        StoreError: the workers cannot start, because the user's script starts them again.
    """
    for _ in range(_TRIES):
        future = workers.submit(function, *arguments)
        if not isinstance(future.exception(), BrokenExecutor):
            return future.result()
        if not workers.can_start:
            return result_of(future, what)
        workers.restart_after(future, [])
    return None


def result_of(future: Future, *work: str) -> Any:
    """The return value of a worker.

    Args:
        work: the names of what it does, for the error.

    Raises:
        StoreError: the worker was killed, or could not start.
    """
    try:
        return future.result()
    except BrokenExecutor as error:
        script = own_script()
        cause = (
            f'{script} is run by the workers too: call main under `if __name__ == "__main__":` only; ' if script else ""
        )
        names = ", ".join(f"'{name}'" for name in work)
        raise StoreError(
            f"{cause}a worker process was killed while it ran {names} (out of memory?); what had finished is kept: run "
            "the same command again, with fewer --workers"
        ) from error
