"""How many CPU threads each training of a run gets."""

import os
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.experiments.setting import Setting
from sparselt.runs.plan import Plan

if TYPE_CHECKING:
    from sparselt.experiments.run import Where

LEAST_PIXELS = 1 << 16
"""Of a batch, for each thread. A step on fewer takes no less time on two threads than on one."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raises a SettingError unless `threads` is None, or from 1 to the number of cores."""
    if threads is not None and not 1 <= threads <= cores():
        raise SettingError(f"--threads is {threads}; expected 1 to {cores()}, the cores here")


def may_widen(setting: Setting, where: "Where") -> bool:
    """Whether the run may choose the number of threads: on this machine's CPU, where nobody has said it."""
    return where.threads is None and (setting.threads, where.device, where.executor) == (1, "cpu", "local")


def threads_for(setting: Setting, plan: Plan) -> int:
    """Threads of each training: the cores, shared by as many trainings as the plan can make at a time.

    It follows from the plan, the batch and the cores alone, so the same command on the same machine trains alike.
    """
    pixels = setting.batch_size * setting.train_size**2
    return max(1, min(cores() // (plan.width() * setting.ranks), pixels // LEAST_PIXELS))
