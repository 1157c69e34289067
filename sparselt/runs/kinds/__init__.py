"""The kinds of stages and what each does. A function reads its inputs and writes its outputs; it knows no store.

A function gets the stage's spec, the paths of its inputs, the names of the outputs wanted, the folder to write to, and
`report`, to be called with the number of steps done. It returns the number of steps (or evaluated points) it made.
Heavy imports stand inside the functions: planning needs none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sparselt.runs.kinds.adaptive import adaptive_prune
from sparselt.runs.kinds.data import make_dataset, make_resident
from sparselt.runs.kinds.distances import measure_angular_distances, measure_distances, measure_histograms
from sparselt.runs.kinds.flatness import measure_flatness, perturb
from sparselt.runs.kinds.masks import prune, random_mask, shuffle
from sparselt.runs.kinds.paths import evaluate_heat_map, evaluate_path
from sparselt.runs.kinds.planes import evaluate_plane_through, evaluate_projection
from sparselt.runs.kinds.siblings import combine, overlap
from sparselt.runs.kinds.task import Report, Task
from sparselt.runs.kinds.training import train

__all__ = ["KINDS", "Kind", "Report", "Task"]


@dataclass(frozen=True)
class Kind:
    """A kind of stage. `version` rises when the same spec would give another result; old results are then not found."""

    run: Callable[[Task], int]
    version: int
    title: str
    counts: str


KINDS: dict[str, Kind] = {
    "dataset": Kind(make_dataset, 2, "write or check the betons", "images"),
    "resident": Kind(make_resident, 1, "read the betons", "images"),
    "train": Kind(train, 1, "train", "steps"),
    "prune": Kind(prune, 1, "prune by magnitude", "masks"),
    "random_mask": Kind(random_mask, 1, "draw random masks", "masks"),
    "shuffle": Kind(shuffle, 1, "shuffle rewound weights", "networks"),
    "path": Kind(evaluate_path, 3, "evaluate linear paths", "points"),
    "heat_map": Kind(evaluate_heat_map, 1, "evaluate the lines between all pairs", "points"),
    "projection": Kind(evaluate_projection, 1, "evaluate lines to projections", "points"),
    "plane": Kind(evaluate_plane_through, 1, "evaluate planes", "points"),
    "adaptive_prune": Kind(adaptive_prune, 1, "search how much to prune", "points"),
    "flatness": Kind(measure_flatness, 1, "measure flatness", "points"),
    "perturb": Kind(perturb, 1, "perturb rewound networks", "networks"),
    "distances": Kind(measure_distances, 1, "measure distances of weights", "pairs"),
    "angular_distances": Kind(measure_angular_distances, 1, "measure angles between rounds", "pairs"),
    "histograms": Kind(measure_histograms, 1, "count weights", "networks"),
    "overlap": Kind(overlap, 1, "compare masks of siblings", "masks"),
    "combine": Kind(combine, 1, "combine masks of siblings", "masks"),
}
