"""The kinds of stages and what each does. A function reads its inputs and writes its outputs; it knows no store.

A function gets the stage's spec, the paths of its inputs, the names of the outputs wanted, the folder to write to, and
`report`, to be called with the number of steps done. It returns the number of steps (or evaluated points) it made.
Heavy imports stand inside the functions: planning needs none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sparselt.runs.kinds.data import make_dataset, make_resident
from sparselt.runs.kinds.masks import prune, random_mask
from sparselt.runs.kinds.paths import evaluate_path
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
    "path": Kind(evaluate_path, 2, "evaluate linear paths", "points"),
}
