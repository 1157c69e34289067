"""Runs the stages of experiments in rounds, until the results require no further stage."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from sparselt.errors import SettingError, SparseltError
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.runs.executor import Watcher, execute
from sparselt.runs.ledger import Entry
from sparselt.runs.plan import Plan
from sparselt.runs.pool import Pool
from sparselt.runs.store import Store
from sparselt.stages.stage import JsonFile, Stage
from sparselt.stages.train import Train


class Finder:
    """`lab.read_if_made` of a run: answers from the store, and remembers the questions since `forget`."""

    def __init__(self, store: Store):
        self._store = store
        self._asked: dict[tuple[str, str], tuple[JsonFile, bool]] = {}

    def __call__(self, result: JsonFile[Any]) -> Any:
        """The content of a JSON file of a stage; None if the stage has not run yet."""
        if not isinstance(result, JsonFile):
            raise SettingError(
                f"lab.read_if_made was asked for {result!r}; expected a stage's file, such as lab.dense(0).measured"
            )
        answered = self._store.has(result.stage)
        self._asked[result.stage.key, result.name] = result, answered
        return self._store.read(result) if answered else None

    @property
    def all_answered(self) -> bool:
        """Whether no question met a stage that had not run yet."""
        return all(answered for _, answered in self._asked.values())

    def forget(self) -> None:
        """Forgets all questions. Call it before a new round."""
        self._asked.clear()

    def check(self, plan: Plan, lost: Collection[str]) -> None:
        """Checks after the last round that each question concerned a stage of the plan, or one of the `lost` keys.

        Raises:
            SettingError: no measurement needs the stage, so the answer would depend on the rest of the store; or the
                stage did not make the file.
        """
        planned = {stage.key for stage in plan.stages}
        for (key, name), (result, answered) in self._asked.items():
            if key in lost or (key in planned and answered):
                continue
            what = f"an experiment asks lab.read_if_made for {name} of '{result.stage.name}'"
            if key in planned:
                raise SettingError(f"{what}, which does not make it; a training makes measurements.json")
            raise SettingError(
                f"{what}, but yields no measurement that needs this stage, so that it never runs; yield a Measurement "
                "of it before asking"
            )


class RoundWatcher(Protocol):
    """Receives the progress of the rounds."""

    def begin(
        self,
        plan: Plan,
        measurements: Sequence[Measurement],
        missing: list[Stage],
        more_trainings: int | None,
        shown: bool,
    ) -> Watcher:
        """A round begins. Returns the watcher of its stages.

        more_trainings: the number that new results require; None in the first round. shown: False if nothing new runs.
        """


def run_rounds(
    experiments: Mapping[str, Experiment],
    lab: Lab,
    found: Finder,
    measurements: Sequence[Measurement],
    store: Store,
    pool: Pool,
    watcher: RoundWatcher,
    planned: Callable[[Plan], None] = lambda plan: None,
    first: tuple[Plan, list[Stage]] | None = None,
) -> tuple[Sequence[Measurement], list[Entry]]:
    """Runs the missing stages, then those that the new results require, until none is missing.

    found: has the questions that were asked for `measurements`, those of the first round.
    planned: called before each round with all stages that are known to be needed.
    first: the plan of `measurements` and what the store lacks of it, if the caller knows them already.
    """
    entries: dict[str, Entry] = {}
    while True:
        lost = {entry.stage for entry in entries.values() if entry.status in ("failed", "skipped")}
        if first is None:
            plan = plan_of(m for m in measurements if not any(stage.key in lost for stage in m.stages))
            first = plan, plan.missing(store)
        (plan, missing), first = first, None
        waiting = [stage for stage in missing if stage.key not in lost]
        fresh = [stage for stage in waiting if not (stage.runs_in_every_plan and stage.key in entries)]
        if entries and not fresh:
            found.check(plan, lost)
            return measurements, list(entries.values())
        planned(plan)
        more = sum(isinstance(stage, Train) for stage in fresh) if entries else None
        display = watcher.begin(plan, measurements, missing, more, bool(fresh))
        for entry in execute(plan, store, pool, display, missing):
            entries.setdefault(entry.stage, entry)
        # If nothing new was made, the experiments would yield the same again. But another run may have made meanwhile
        # what an unanswered question was about.
        if found.all_answered and all(stage.runs_in_every_plan for stage in fresh):
            found.check(plan, {entry.stage for entry in entries.values() if entry.status in ("failed", "skipped")})
            return measurements, list(entries.values())
        found.forget()
        measurements = measured(experiments, lab)


def measured(experiments: Mapping[str, Experiment], lab: Lab) -> list[Measurement]:
    """The measurements that the experiments yield now.

    Raises:
        SettingError: a driver yields a measurement twice, two trainings or two paths in the same cells of the table, or
            a measurement in another experiment's name.
    """
    found: list[Measurement] = []
    cells: set[tuple] = set()
    for name in experiments:
        for m in _yielded(name, experiments, lab):
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


def _yielded(name: str, experiments: Mapping[str, Experiment], lab: Lab) -> Iterator[Measurement]:
    """The measurements of one experiment, and what it rests on. An error in its driver names the experiment."""
    try:
        yield from experiments[name](lab)
        yield from experiments[name].supporting(name, lab, experiments)
    except SparseltError:
        raise
    except Exception as error:
        error.add_note(f"This was raised by the driver of experiment {name}.")
        raise
