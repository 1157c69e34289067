"""How many CPU threads each training of a run gets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.rounds import Finder, measured, plan_of
from sparselt.experiments.setting import Setting
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.runs.workers import default_workers

if TYPE_CHECKING:
    from sparselt.experiments.where import Where

LEAST_PIXELS = 1 << 16
"""Of a batch, for each thread. A step on fewer takes no less time on two threads than on one."""


def cores() -> int:
    """The cores that this process may use."""
    return default_workers(1)


def check_threads(threads: int | None) -> None:
    """Raises a SettingError unless `threads` is None, or from 1 to the number of cores."""
    if threads is not None and not 1 <= threads <= cores():
        raise SettingError(f"--threads is {threads}; expected 1 to {cores()}, the cores here")


def with_threads(setting: Setting, where: "Where", experiments: Mapping[str, Experiment], data: Path | None) -> Setting:
    """The setting with the threads that the run was given, or with those that its plan leaves cores for.

    Raises:
        SettingError: more threads than cores, or fewer than one.
    """
    check_threads(where.threads)
    if where.threads is not None:
        return replace(setting, threads=where.threads)
    if not may_widen(setting, where) or _most_threads(setting) == 1:
        return setting
    lab = Lab(setting, where.device, data, Finder(Store(where.out / "store", writable=False)))
    return replace(setting, threads=threads_for(setting, plan_of(measured(experiments, lab))))


def may_widen(setting: Setting, where: "Where") -> bool:
    """Whether the run may choose the number of threads: it trains on this CPU, and no number was given."""
    return where.threads is None and (setting.threads, where.device, where.executor) == (1, "cpu", "local")


def threads_for(setting: Setting, plan: Plan) -> int:
    """Threads of each training: the cores, shared by as many trainings as the plan can make at a time.

    It follows from the plan, the batch and the cores alone, so the same command on the same machine trains alike.
    """
    return max(1, min(cores() // (plan.width() * setting.ranks), _most_threads(setting)))


def _most_threads(setting: Setting) -> int:
    """What a training has use for, whatever the plan."""
    return max(1, min(cores() // setting.ranks, setting.batch_size * setting.train_size**2 // LEAST_PIXELS))
