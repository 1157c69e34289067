"""Iterative magnitude pruning with weight rewinding, and two controls (Paul et al. 2022, Fig. 5)."""

from collections.abc import Iterator

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement


def imp(lab: Lab) -> Iterator[Measurement]:
    """Test error of the dense network, of every level at every rewind step, and of the controls.

    Variants: `dense` (level 0), `imp`, `random` (same layerwise densities, same rewound weights) and `reinit` (the IMP
    mask on a fresh initialization).
    """
    setting = lab.setting
    for replicate in range(max(setting.replicates, setting.dense_replicates)):
        yield Measurement("imp", "dense", replicate, None, 0, lab.dense(replicate))
    for replicate in range(setting.replicates):
        for rewind_step in setting.rewind_steps:
            for level in range(1, setting.levels + 1):
                yield Measurement(
                    "imp", "imp", replicate, rewind_step, level, lab.ticket(replicate, rewind_step, level)
                )
        step = setting.control_rewind_step
        for level in setting.control_levels:
            yield Measurement("imp", "random", replicate, step, level, lab.random_control(replicate, step, level))
            yield Measurement("imp", "reinit", replicate, step, level, lab.reinit_control(replicate, step, level))
