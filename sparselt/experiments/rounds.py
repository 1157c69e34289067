"""Rounds of a run: what the experiments measure now, made, until they ask for no more."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from sparselt.errors import SettingError, SparseltError
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.runs.executor import Watcher, Workers, execute
from sparselt.runs.ledger import Entry
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.stages.stage import Result, Stage
from sparselt.stages.train import Train


class Finder:
    """`lab.found` of a run: answers from the store, and remembers what was asked since `forget`."""

    def __init__(self, store: Store):
        self._store = store
        self._asked: dict[tuple[str, str], tuple[Result, bool]] = {}

    def __call__(self, result: Result[Any]) -> Any:
        """What a JSON file of a stage holds; None where the stage has not run yet."""
        if not isinstance(result, Result):
            raise SettingError(f"lab.found was asked for {result!r}; expected a result, such as lab.dense(0).measured")
        answered = self._store.has(result.stage)
        self._asked[result.stage.key, result.name] = result, answered
        return self._store.read(result) if answered else None

    def forget(self) -> None:
        """Before the drivers are asked again."""
        self._asked.clear()

    def check(self, plan: Plan, lost: Collection[str]) -> None:
        """Once the rounds have ended: whether what was asked for is what the drivers yield, or one of the `lost` keys.

        Raises:
            SettingError: a stage that no measurement needs, whose answer would depend on what else is in the store; or
                a file that its stage did not make.
        """
        planned = {stage.key for stage in plan.stages}
        for (key, name), (result, answered) in self._asked.items():
            if key in lost or (key in planned and answered):
                continue
            what = f"an experiment asks lab.found for {name} of '{result.stage.name}'"
            if key in planned:
                raise SettingError(f"{what}, which does not make it; a training makes measurements.json")
            raise SettingError(
                f"{what}, but yields no measurement that needs this stage, so that it never runs; yield a Measurement "
                "of it before asking"
            )


class RoundWatcher(Protocol):
    """Who is told how the rounds of a run go."""

    def begin(self, plan: Plan, missing: list[Stage], more_trainings: int | None, shown: bool) -> Watcher:
        """A round begins; returns the watcher of its stages.

        more_trainings: those that new results ask for; None: the first round. shown: False where nothing new runs.
        """


def run_rounds(
    experiments: Mapping[str, Experiment], lab: Lab, found: Finder, store: Store, pool: Workers, watcher: RoundWatcher
) -> tuple[list[Measurement], list[Entry]]:
    """Runs what is missing, and again what the experiments ask for once that is measured, until they ask no more."""
    entries: dict[str, Entry] = {}
    while True:
        found.forget()
        measurements = measured(experiments, lab)
        lost = {entry.stage for entry in entries.values() if entry.status in ("failed", "skipped")}
        plan = plan_of(m for m in measurements if not any(stage.key in lost for stage in m.stages))
        missing = plan.missing(store)
        fresh = [stage for stage in missing if stage.key not in lost and not (stage.local and stage.key in entries)]
        if entries and not fresh:
            found.check(plan, lost)
            return measurements, list(entries.values())
        more = sum(isinstance(stage, Train) for stage in fresh) if entries else None
        for entry in execute(plan, store, pool, watcher.begin(plan, missing, more, bool(fresh))):
            entries.setdefault(entry.stage, entry)


def measured(experiments: Mapping[str, Experiment], lab: Lab) -> list[Measurement]:
    """What the experiments measure now.

    Raises:
        SettingError: what a driver of the user's may yield: a measurement twice, two trainings or two paths in the
            same cells of the table, a measurement in another experiment's name.
    """
    found: list[Measurement] = []
    cells: set[tuple] = set()
    for name, experiment in experiments.items():
        for m in _yielded(name, experiment, lab):
            if m.experiment != name:
                raise SettingError(
                    f"experiment {name} yields a Measurement of experiment {m.experiment!r}, whose figures would show "
                    f"it; expected Measurement({name!r}, …)"
                )
            if m.cells in cells:
                levels = f"level {m.level}" if m.to_level is None else f"levels {m.level} to {m.to_level}"
                what = {"train": "training", "path": "path"}.get(m.stage.kind, f"stage of kind {m.stage.kind}")
                raise SettingError(
                    f"experiment {name} measures variant {m.variant}, replicate {m.replicate}, rewind step "
                    f"{m.rewind_step}, {levels} twice, each time a {what}; tell them apart by "
                    "Measurement(condition='name=value')"
                )
            cells.add(m.cells)
            found.append(m)
    return found


def plan_of(measurements: Iterable[Measurement]) -> Plan:
    """The stages that measurements need."""
    return Plan(stage for measurement in measurements for stage in measurement.stages)


def _yielded(name: str, experiment: Experiment, lab: Lab) -> Iterator[Measurement]:
    """What an experiment yields; an error of its driver's names it."""
    try:
        yield from experiment(lab)
    except SparseltError:
        raise
    except Exception as error:
        error.add_note(f"This was raised by the driver of experiment {name}.")
        raise
