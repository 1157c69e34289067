"""Plans of stages, the store of their results, the executor, and the ledger of costs.

`open(folder)` gives what a finished run holds.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparselt.runs.folder import Run

__all__ = ["open"]


def open(folder: str | Path) -> "Run":
    """A finished run, for its results, weights and masks. StoreError if the folder is none.

    run = sparselt.runs.open("runs/digits_resnet8-mini-e98482cf")
    run.weights(replicate=1, rewind_step=60, level=9)
    """
    from sparselt.runs.folder import Run

    return Run(folder)
