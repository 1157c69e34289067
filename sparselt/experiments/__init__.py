"""The thin drivers: each yields the measurements of one experiment, and with them the stages that have to run."""

from collections.abc import Callable, Iterator

from sparselt.experiments.connectivity import connectivity
from sparselt.experiments.imp import imp
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement

EXPERIMENTS: dict[str, Callable[[Lab], Iterator[Measurement]]] = {"imp": imp, "connectivity": connectivity}

__all__ = ["EXPERIMENTS", "Lab", "Measurement", "connectivity", "imp"]
