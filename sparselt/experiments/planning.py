"""The plan of a run: which experiments, which stages, and the name of its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparselt.errors import SettingError
from sparselt.experiments.checks import NAME
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.rounds import Finder, measured, plan_of
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import nearest, rules
from sparselt.experiments.where import Where
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.stages.identity import digest, to_json

# Fields of a setting that change no result.
_NO_VALUES = {
    "sources",
    "source",
    "differences",
    "title",
    "paper",
    "main_values",
    "options",
    "explored_seeds",
    "wins_at_init",
    "left_out",
    "given",
}


@dataclass(frozen=True)
class PlannedRun:
    """A run whose stages are planned and not yet made.

    Args:
        name: of its folder.
        experiments: to be run, by name.
        found: what `lab` reads results of finished stages with.
        measurements, plan: as far as they are known before the first stage has run.
    """

    name: str
    setting: Setting
    experiments: Mapping[str, Experiment]
    store: Store
    found: Finder
    lab: Lab
    measurements: Sequence[Measurement]
    plan: Plan


def plan_run(
    setting: Setting, experiments: Mapping[str, Experiment], where: Where, data: Path | None, writable: bool
) -> PlannedRun:
    """Plans a run. data: the folder of its betons, if they are the user's. writable: whether the store is written to.

    Raises:
        SettingError: an experiment that yields no measurement.
    """
    store = Store(where.out / "store", writable=writable, patience=where.patience)
    found = Finder(store)
    lab = Lab(setting, where.device, data, found)
    measurements = measured(experiments, lab)
    plan = plan_of(measurements)
    if idle := experiments.keys() - {m.experiment for m in measurements}:
        if not measurements:
            found.check(plan, ())
        raise SettingError(
            f"{' and '.join(sorted(idle))}: no measurement is yielded, and so there is nothing to run; yield one, or "
            "say why the setting cannot run it (unsupported_reason)"
        )
    name = f"{setting.name}-{setting.scale}-{_hash(setting, where.device, experiments, lab)}"
    return PlannedRun(name, setting, experiments, store, found, lab, measurements, plan)


def check_experiments(experiments: Mapping[str, Experiment]) -> None:
    """Raises a SettingError for what is no Experiment, or is called by what is no name."""
    for name, experiment in experiments.items():
        if not isinstance(experiment, Experiment):
            raise SettingError(f"EXPERIMENTS[{name!r}] is {experiment!r}; expected Experiment(driver, paper)")
        if not (isinstance(name, str) and NAME.fullmatch(name)) or name == "main":
            raise SettingError(f"an experiment is called {name!r}; expected letters, digits, _ and -, and not main")


def chosen(
    names: Sequence[str], known: Mapping[str, Experiment], setting: Setting
) -> tuple[dict[str, Experiment], dict[str, str]]:
    """The experiments to run, in the order in which they are known, and why others that were not asked for cannot run.

    Args:
        names: of experiments; `main`: those that show a paper's main finding; none: all that apply.

    Raises:
        SettingError: an unknown name, or an experiment that the setting cannot run.
    """
    check_experiments(known)
    reasons = {name: reason for name, e in known.items() if (reason := e.reason_against(setting))}
    if not names:
        return {name: e for name, e in known.items() if name not in reasons}, reasons
    wanted: set[str] = set()
    for name in names:
        if name == "main":
            wanted |= {name for name, e in known.items() if e.main and name not in reasons}
        elif name not in known:
            spaces = "; separate names by spaces" if "," in name else nearest(name, [*known, "main"])
            raise SettingError(f"unknown experiment {name!r}{spaces}")
        elif name in reasons:
            raise SettingError(f"{setting.name} at scale {setting.scale} cannot run {name}: {reasons[name]}")
        else:
            wanted.add(name)
    return {name: e for name, e in known.items() if name in wanted}, {}


def values_read(experiments: Mapping[str, Experiment], setting: Setting) -> tuple[str, ...]:
    """The entries of `setting.left_out` whose values the setting itself or one of these experiments reads."""
    names = {
        name for owner in (setting, *(e.options for e in experiments.values() if e.options)) for name in rules(owner)
    }
    return tuple(text for text in setting.left_out if text.partition(" ")[0] in names)


def _hash(setting: Setting, device: str, experiments: Mapping[str, Experiment], lab: Lab) -> str:
    """The hash in the name of a run's folder: runs with other values get another."""
    values = {name: value for name, value in to_json(setting).items() if name not in _NO_VALUES}
    # Options of an installed package count only in runs of its experiments: installing it moves no other folder.
    kinds = {experiment.options for experiment in experiments.values()}
    counted = [o for o in setting.options if type(o) in kinds or type(o).__module__.startswith("sparselt.")]
    # The first version used the name "grids". It stays, so that folders of that version are found.
    values["grids"] = {name: value for options in counted for name, value in to_json(options).items()}
    return digest([values, device, list(experiments), lab.dataset.key])[:8]
