"""Are solutions linearly connected: those of successive levels, and those that differ in SGD noise only?"""

from collections.abc import Iterator

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.solutions import all_errors
from sparselt.stages.paths import EvaluatePairs
from sparselt.stages.stage import StageFile
from sparselt.stages.train import finals


def connectivity(lab: Lab) -> Iterator[Measurement]:
    """Are the solutions of successive levels linearly connected? (Paul et al. 2022, Figs. 2 and 6)

    Variant `imp`: error and loss along the straight lines between the solutions of levels 0, 1, …, L, for every rewind
    step, with the metrics of a path: path_error, path_loss, max_error, barrier (Def. A.1), instability, loss_barrier.

    Condition `between=levels` (`heat_map`): max_error, barrier and instability of the lines between all pairs of levels
    at the last rewind step (Fig. 2, right).

    Condition `between=copies` (`instability_levels`): the line between two copies of one network that start from the
    same step and differ in data order and augmentation (Frankle et al. 2020, Linear Mode Connectivity). Variants:
    `dense` (level 0), `imp` (the ticket of the level), `random` (a mask of its layerwise densities). A copy starts with
    a fresh optimizer; so does the first copy of the dense network with `level_0` rewound, else it is the dense network
    itself, which was never interrupted.

    In a run without `imp` also the test errors of the dense networks and the tickets: they say which levels match, and
    give ε.
    """
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
            yield from _copies(lab, replicate, rewind_step)
        if setting.option(ConnectivityOptions).heat_map:
            yield _heat_map(lab, replicate, max(setting.rewind_steps))


def _heat_map(lab: Lab, replicate: int, rewind_step: int) -> Measurement:
    """The lines between all pairs of levels."""
    networks = [lab.ticket(replicate, rewind_step, level) for level in range(lab.setting.levels + 1)]
    points = lab.setting.path_points
    pairs = len(networks) * (len(networks) - 1) // 2
    stage = EvaluatePairs(
        points=points,
        networks=finals(networks),
        **lab.evaluation_arguments,
        label=f"all pairs of levels, replicate {replicate}, rewind {rewind_step}",
        work=len(networks) + pairs * (points - 2),
    )
    return Measurement(
        "connectivity",
        "imp",
        replicate,
        rewind_step,
        0,
        stage,
        networks=tuple(networks),
        condition="between=levels",
        metrics=("max_error", "barrier", "instability"),
    )


def _copies(lab: Lab, replicate: int, rewind_step: int) -> Iterator[Measurement]:
    """The line between a network and its copy, for every level at which instability is measured."""
    for level in lab.setting.option(ConnectivityOptions).instability_levels:
        masks: dict[str, StageFile | None] = {"dense": None}
        if level > 0:
            masks = {
                "imp": lab.mask(replicate, rewind_step, level),
                "random": lab.random_mask(replicate, rewind_step, level),
            }
        for variant, mask in masks.items():
            label = f"{variant}, replicate {replicate}, rewind {rewind_step}, level {level}"
            first = lab.ticket(replicate, rewind_step, 0)
            if mask is not None:
                first = lab.rewound(replicate, rewind_step, mask, label, level=level)
            copy = lab.rewound(
                replicate, rewind_step, mask, f"{label}, in another data order", level=level, data_order_copy=1
            )
            yield Measurement(
                "connectivity",
                variant,
                replicate,
                rewind_step,
                level,
                lab.path(first, copy, f"path between copies, {label}"),
                to_level=level,
                network=first,
                condition="between=copies",
            )


EXPERIMENT = Experiment(
    connectivity,
    "Paul et al. 2022",
    options=ConnectivityOptions,
    rests_on={"imp": all_errors},
    report="sparselt.experiments.connectivity.report",
    order=2,
    main=True,
)
