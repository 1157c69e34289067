"""The experiments, a folder each: the thin driver, the values that it varies, its figures and claims.

A driver yields the measurements of one experiment, and with them the stages that have to run.
"""

import pkgutil
from importlib import import_module

from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.options import Options


def _built_in() -> dict[str, Experiment]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    found = {name: import_module(f"{__name__}.{name}.experiment").EXPERIMENT for name in names}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


EXPERIMENTS: dict[str, Experiment] = _built_in()
"""By name, in the order in which a report shows them. A new folder with an `experiment.py` is found by itself."""

MAIN = tuple(name for name, experiment in EXPERIMENTS.items() if experiment.main)
"""What `--experiments main` runs: the main finding of each of the four papers."""


def option_types() -> list[type[Options]]:
    """What the experiments vary."""
    known = (e for e in EXPERIMENTS.values() if isinstance(e, Experiment))
    return [experiment.options for experiment in known if experiment.options is not None]


__all__ = ["EXPERIMENTS", "MAIN", "Experiment", "Lab", "Measurement", "Options", "option_types"]
