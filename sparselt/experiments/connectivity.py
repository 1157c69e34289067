"""Are the solutions of successive levels linearly connected? (Paul et al. 2022, Figs. 2 and 6)"""

from collections.abc import Iterator

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement


def connectivity(lab: Lab) -> Iterator[Measurement]:
    """Error and loss along the piecewise linear path through the solutions of levels 0, 1, …, L."""
    setting = lab.setting
    for replicate in range(setting.replicates):
        for rewind_step in setting.rewind_steps:
            for level in range(setting.levels):
                first, second = (lab.ticket(replicate, rewind_step, level + side) for side in (0, 1))
                label = f"path, replicate {replicate}, rewind {rewind_step}, levels {level} to {level + 1}"
                yield Measurement(
                    "connectivity",
                    "imp",
                    replicate,
                    rewind_step,
                    level,
                    lab.path(first, second, label),
                    to_level=level + 1,
                    network=first,
                )
