"""The experiments, a folder each: the thin driver, the values that it varies, its figures and claims.

A driver yields the measurements of one experiment, and with them the stages that have to run.
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from sparselt import own
from sparselt.errors import SettingError
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.options import Options, check_options
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import rules


def _built_in() -> dict[str, Experiment]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    found = {name: import_module(f"{__name__}.{name}.experiment").EXPERIMENT for name in names}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


EXPERIMENTS: dict[str, Experiment] = _built_in()
"""By name, in the order in which a report shows them. A new folder with an `experiment.py` is found by itself."""

MAIN = tuple(name for name, experiment in EXPERIMENTS.items() if experiment.main)
"""What `--experiments main` runs: the main finding of each of the four papers."""


def known_experiments() -> dict[str, Experiment]:
    """`EXPERIMENTS`, and behind them what installed packages announce as entry points of `sparselt.experiments`.

    Raises:
        SettingError: an entry point that is not an Experiment.
    """
    found = dict(EXPERIMENTS)
    for name, reference in own.entry_points("sparselt.experiments").items():
        try:
            experiment = own.resolve(reference)
        except SettingError as error:
            package = own.package_of("sparselt.experiments", name)
            raise SettingError(f"{package} announces experiment {name}: {error}") from error
        if not isinstance(experiment, Experiment):
            raise SettingError(
                f"entry point {name} = {reference} is {experiment!r}; expected Experiment(driver, paper)"
            )
        if name in found:
            own.check_free("sparselt.experiments", name)
        found[name] = experiment
    return found


def option_types(experiments: Mapping[str, Experiment] | None = None) -> list[type[Options]]:
    """What experiments vary; those that are known by default.

    Raises:
        SettingError: options whose fields cannot be set by name, see `sparselt.experiments.options.check_options`.
    """
    found = known_experiments() if experiments is None else experiments
    kinds = {n: e.options for n, e in found.items() if isinstance(e, Experiment) and e.options is not None}
    check_options(kinds, Setting.__dataclass_fields__)
    return list(kinds.values())


def varied_by(experiments: Mapping[str, Experiment]) -> dict[str, str]:
    """The experiment that each of its values belongs to, by the value's name."""
    return {value: name for name, e in experiments.items() if e.options is not None for value in rules(e.options)}


__all__ = [
    "EXPERIMENTS",
    "MAIN",
    "Experiment",
    "Lab",
    "Measurement",
    "Options",
    "known_experiments",
    "option_types",
    "varied_by",
]
