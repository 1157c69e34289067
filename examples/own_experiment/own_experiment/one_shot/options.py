"""What `one_shot` varies."""

from dataclasses import dataclass

from sparselt.experiments import Options
from sparselt.experiments.values import value


@dataclass(frozen=True, kw_only=True)
class OneShotOptions(Options):
    """What `one_shot` varies. Without densities it does not apply."""

    one_shot_densities: tuple[float, ...] = value((), above=0, below=1, help="shares of the weights that are left")
    one_shot_criteria: tuple[str, ...] = value(
        ("magnitude", "own_experiment.criteria:lamp"), help="criteria, built in or your own"
    )
