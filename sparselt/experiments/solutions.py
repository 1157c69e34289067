"""Test errors of the dense networks and of the tickets: measured by `imp`, and needed by others that run without it."""

from collections.abc import Iterator

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement


def dense_errors(lab: Lab, experiment: str) -> Iterator[Measurement]:
    """The dense network of each replicate, or `dense_replicates` of them if that is more. They give ε."""
    for replicate in range(max(lab.setting.replicates, lab.setting.dense_replicates)):
        yield Measurement(experiment, "dense", replicate, None, 0, lab.dense(replicate))


def ticket_errors(lab: Lab, experiment: str, replicate: int) -> Iterator[Measurement]:
    """The ticket of each rewind step and level of a replicate; with `level_0` rewound also that of level 0."""
    setting = lab.setting
    for step in setting.rewind_steps:
        for level in range(0 if setting.level_0 == "rewound" else 1, setting.levels + 1):
            yield Measurement(experiment, "imp", replicate, step, level, lab.ticket(replicate, step, level))


def all_errors(lab: Lab, experiment: str) -> Iterator[Measurement]:
    """The dense networks and the tickets, for experiments whose report needs their test errors and ε."""
    yield from dense_errors(lab, experiment)
    for replicate in range(lab.setting.replicates):
        yield from ticket_errors(lab, experiment, replicate)
