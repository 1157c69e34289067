"""Settings of the papers, a module each; `python -m sparselt.reproduce SETTING` runs their experiments.

A module has a function `setting(scale)` and, where it is not `paper`, a DEFAULT_SCALE. Scales: `paper` is the exact
protocol, `mini` the same protocol with fewer steps, levels and replicates, `smoke` the same code in minutes on two CPU
cores. A new module is found by itself.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

SCALES = ("paper", "mini", "smoke")

SETTINGS = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
"""The names of the settings."""


def default_scale(name: str) -> str:
    """The scale at which a setting runs unless another is asked for."""
    return getattr(import_module(f"sparselt.reproduce.{name}"), "DEFAULT_SCALE", "paper")


def load_setting(name: str, scale: str | None = None) -> "Setting":
    """The setting `name` at `scale`, or at its default scale, with a value for the options of every experiment.

    Raises:
        SettingError: an unknown setting (the nearest names are offered) or scale.
    """
    from sparselt.errors import SettingError
    from sparselt.experiments import option_types
    from sparselt.experiments.values import nearest

    if name not in SETTINGS:
        raise SettingError(f"unknown setting {name!r}{nearest(name, SETTINGS)}")
    scale = scale or default_scale(name)
    if scale not in SCALES:
        raise SettingError(f"unknown scale {scale!r}{nearest(scale, SCALES)}")
    return import_module(f"sparselt.reproduce.{name}").setting(scale).with_options(option_types())
