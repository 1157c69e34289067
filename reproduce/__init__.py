"""Settings of the papers, a module each; `python -m sparselt.reproduce SETTING` runs their experiments.

A module has a function `setting(scale)` and, where it is not `paper`, a DEFAULT_SCALE. Scales: `paper` is the
papers' protocol, whose remaining differences docs/exact.md names, `mini` a protocol with fewer steps, levels and
replicates, `smoke` the same code in minutes on two CPU cores. A new module is found by itself.
"""

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselt import own
from sparselt.errors import naming_extras

if TYPE_CHECKING:
    from rich.console import Console

    from sparselt.experiments import Experiment
    from sparselt.experiments.setting import Setting
    from sparselt.runs.folder import Run

SCALES = ("paper", "mini", "smoke")

SETTINGS = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
"""The names of the settings."""


def default_scale(name: str) -> str:
    """The scale at which a setting runs unless another is asked for."""
    return getattr(import_module(f"sparselt.reproduce.{name}"), "DEFAULT_SCALE", "paper") if name in SETTINGS else ""


def load_setting(name: str, scale: str | None = None) -> "Setting":
    """The setting `name` at `scale`, or at its default scale, with a value for the options of every experiment.

    Args:
        name: one of `SETTINGS`; or one of yours, a function of the scale that returns a `Setting`: by its reference
            `package.module:function`, or the name of an entry point of `sparselt.settings`. It gets an empty scale
            where none was asked for.

    Raises:
        SettingError: an unknown setting (the nearest names are offered) or scale, a function that returns something
            else.
    """
    from sparselt.errors import SettingError
    from sparselt.experiments import option_types
    from sparselt.experiments.setting import Setting
    from sparselt.experiments.values import nearest

    scale = scale or default_scale(name)
    if name in SETTINGS:
        own.check_free("sparselt.settings", name)
        if scale not in SCALES:
            raise SettingError(f"unknown scale {scale!r}{nearest(scale, SCALES)}")
        reference = f"sparselt.reproduce.{name}:setting"
    else:
        announced = own.entry_points("sparselt.settings")
        if not own.is_reference(name) and name not in announced:
            raise SettingError(f"unknown setting {name!r}{nearest(name, [*SETTINGS, *announced])}")
        reference = announced.get(name, name)
    function = own.resolve_callable(reference)
    setting = own.called(f"{name}({scale!r})", function, scale, expected="a function of the scale")
    if not isinstance(setting, Setting):
        raise SettingError(f"{name}({scale!r}) returned {setting!r}; expected a sparselt.experiments.setting.Setting")
    if scale not in ("", setting.scale):
        raise SettingError(
            f"{name}({scale!r}) returned a setting of scale {setting.scale!r}; expected the scale asked for, or a "
            "SettingError for an unknown scale"
        )
    if name in SETTINGS and setting.name != name:
        raise SettingError(f"{name}({scale!r}) returned a setting named {setting.name!r}; expected {name!r}")
    return setting.with_options(option_types())


@naming_extras()
def run(
    setting: "str | Setting",
    experiments: "Iterable[str] | Mapping[str, Experiment] | None" = None,
    *,
    scale: str | None = None,
    data: str | Path | None = None,
    out: str | Path = "runs",
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    cohort: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    log: Iterable[str] = (),
    console: "Console | None" = None,
    **values: Any,
) -> "Run":
    """Runs experiments, as `python -m sparselt.reproduce` does; returns the run, whose `folder` has the files.

    Call it under `if __name__ == "__main__":` in a script: worker processes import the script.

    Args:
        setting: its name, as of `load_setting`, or a Setting of yours.
        experiments: their names, `main` for each paper's main finding; or experiments of yours, a mapping from names.
            None: all that apply.
        scale, data, out, device, workers, threads, cohort, executor, ray_address, log: as the command's options.
        console: where to print; default: the terminal.
        values: other values of the setting, such as lr=0.1. A model or a criterion of yours may be the function itself;
            it has to stand at the top of a module. With a `source` of yours the setting takes its classes, counts and
            image size from it.

    Raises:
        SparseltError: bad input, before anything runs; a run in which stages failed, once the others have run.
    """
    from rich.console import Console

    from sparselt.errors import SettingError, StoreError
    from sparselt.experiments import known_experiments, option_types
    from sparselt.experiments.planning import check_experiments, chosen
    from sparselt.experiments.run import run as run_setting
    from sparselt.experiments.setting import Setting
    from sparselt.experiments.where import Where
    from sparselt.report.wording import count
    from sparselt.runs.folder import Run

    if isinstance(experiments, str):
        raise SettingError(f"experiments is {experiments!r}; expected several names, such as ({experiments!r},)")
    mine = dict(experiments) if isinstance(experiments, Mapping) else {}
    check_experiments(mine)
    known = {**known_experiments(), **mine}
    named = list(() if experiments is None else experiments)
    for item in named:
        if not isinstance(item, str) and not mine:
            raise SettingError(
                f"experiments holds {item!r:.80}; expected names, or a mapping from names to experiments of yours: "
                "{'mine': EXPERIMENT}"
            )
    if experiments is not None and not named:
        raise SettingError(
            f"experiments is empty; expected one or more of {', '.join(known)}, or main; leave it out to run all that "
            "apply"
        )
    usual, wanted = (load_setting(setting, s) if isinstance(setting, str) else setting for s in (None, scale))
    if not isinstance(wanted, Setting):
        raise SettingError(f"setting is {wanted!r}; expected a name, or a sparselt.experiments.setting.Setting")
    if scale not in (None, wanted.scale):
        raise SettingError(f"scale is {scale!r}, but the Setting given is of scale {wanted.scale!r}; leave it out")
    wanted, usual = (each.with_options(option_types(known)) for each in (wanted, usual))
    if "main" in named:
        wanted = wanted.changed(**wanted.main_values)
    if "source" in values:
        wanted = wanted.with_source(values.pop("source"))
    changed = wanted.changed(**{name: _by_reference(name, value) for name, value in values.items()})
    wanted = changed.noting_given(wanted).checked()
    folder = None if data is None else Path(data)
    where = Where(
        *(folder, Path(out), device, workers, cohort, "sparselt.reproduce.run(…)"),
        executor=executor,
        ray_address=ray_address,
        threads=threads,
        log=tuple(log),
    )
    outcome = run_setting(wanted, usual, *chosen(named, known, wanted), where, console or Console())
    if outcome.failed or outcome.folder is None:
        raise StoreError(f"{count(len(outcome.failed), 'stage')} failed: {'; '.join(outcome.failed)}")
    return Run(outcome.folder)


def _by_reference(name: str, value: object) -> object:
    """A function as its reference, several values in a tuple each so; other values as they are.

    name: what messages call it.
    """
    if isinstance(value, tuple | list):
        return tuple(_by_reference(name, item) for item in value)
    return own.reference_to(value, name) if callable(value) else value
