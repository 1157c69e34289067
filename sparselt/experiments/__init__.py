"""The thin drivers: each yields the measurements of one experiment, and with them the stages that have to run."""

from sparselt.experiments.adaptive.experiment import adaptive
from sparselt.experiments.adaptive.experiment import why_not as why_not_adaptive
from sparselt.experiments.connectivity.experiment import connectivity
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.flatness.experiment import flatness
from sparselt.experiments.flatness.experiment import why_not as why_not_flatness
from sparselt.experiments.imp.experiment import imp
from sparselt.experiments.lab import Lab
from sparselt.experiments.landscape.experiment import landscape
from sparselt.experiments.landscape.experiment import why_not as why_not_landscape
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.rewind_to_init.experiment import rewind_to_init
from sparselt.experiments.rewind_to_init.experiment import why_not as why_not_rewind_to_init
from sparselt.experiments.siblings.experiment import siblings
from sparselt.experiments.siblings.experiment import why_not as why_not_siblings
from sparselt.experiments.stability.experiment import stability
from sparselt.experiments.stability.experiment import why_not as why_not_stability

EXPERIMENTS: dict[str, Experiment] = {
    "imp": Experiment(imp, "all four"),
    "connectivity": Experiment(connectivity, "Paul et al. 2022"),
    "landscape": Experiment(landscape, "Paul et al. 2022", why_not_landscape),
    "adaptive": Experiment(adaptive, "Paul et al. 2022", why_not_adaptive),
    "flatness": Experiment(flatness, "Paul et al. 2023", why_not_flatness),
    "stability": Experiment(stability, "Frankle et al. 2019", why_not_stability),
    "rewind_to_init": Experiment(rewind_to_init, "Maene et al. 2021", why_not_rewind_to_init),
    "siblings": Experiment(siblings, "Movva et al. 2021", why_not_siblings),
}
"""By name, in the order in which a report shows them."""

MAIN = ("imp", "connectivity", "siblings", "stability", "rewind_to_init")
"""What `--experiments main` runs: the main finding of each of the four papers."""

__all__ = ["EXPERIMENTS", "MAIN", "Experiment", "Lab", "Measurement"]
