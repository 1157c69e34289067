"""The thin drivers: each yields the measurements of one experiment, and with them the stages that have to run."""

from sparselt.experiments.connectivity import connectivity
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.imp import imp
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement

EXPERIMENTS: dict[str, Experiment] = {
    "imp": Experiment(imp, "all four"),
    "connectivity": Experiment(connectivity, "Paul et al. 2022"),
}
"""By name, in the order in which a report shows them."""

MAIN = ("imp", "connectivity", "siblings", "stability", "rewind_to_init")
"""What `--experiments main` runs: the main finding of each of the four papers."""

__all__ = ["EXPERIMENTS", "MAIN", "Experiment", "Lab", "Measurement"]
