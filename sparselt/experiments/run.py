"""One run, from its setting to its report."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sparselt.errors import SettingError, StoreError
from sparselt.experiments.data import check_data, titled
from sparselt.experiments.display import (
    RoundDisplay,
    print_estimate,
    print_places,
    print_plan,
    print_protocol,
    print_schedules,
)
from sparselt.experiments.events import watching
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.networks import network_rows
from sparselt.experiments.record import dataset_of, protocol, run_record
from sparselt.experiments.rounds import Finder, measured, plan_of, run_rounds
from sparselt.experiments.sections import sections_of
from sparselt.experiments.setting import Setting
from sparselt.experiments.threads import with_threads
from sparselt.experiments.values import nearest, rules
from sparselt.experiments.where import Where, check_gpu, check_out, check_simulation, pool_of
from sparselt.report import report
from sparselt.report.wording import count, verb
from sparselt.runs.devices import cpu_has_bfloat16
from sparselt.runs.estimate import Speed, assumed_speed, estimate
from sparselt.runs.inventory import note_plan
from sparselt.runs.ledger import Entry, with_densities, write_ledger
from sparselt.runs.loggers import check_installed
from sparselt.runs.networks import NetworkRow, write_networks
from sparselt.runs.store import Store
from sparselt.stages.identity import digest, to_json
from sparselt.stages.train import Train
from sparselt.stopping import directing

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
}
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: its folder (None if nothing was written) and the labels of failed stages."""

    folder: Path | None
    failed: tuple[str, ...] = ()


def run(
    setting: Setting,
    usual: Setting,
    experiments: Mapping[str, Experiment],
    left_out: Mapping[str, str],
    where: Where,
    console: Console,
    dry_run: bool = False,
    show_protocol: bool = False,
) -> Outcome:
    """Plans, runs and reports. Everything is checked before anything is written.

    Args:
        setting: checked.
        usual: the setting at its default scale, for the sources of its numbers.
        experiments: to be run, by name.
        left_out: experiments that do not apply, and why.
        dry_run: print the plan and stop.
        show_protocol: print every value with its source first; stop there, unless it is a dry run.
    """
    setting = dataclasses.replace(setting, left_out=_read_by(experiments, setting))
    sections = sections_of(experiments)  # a mistake in a section is named before anything trains
    dataset = check_data(where.data, setting, dry_run or show_protocol)
    setting = titled(setting, usual, dataset)
    for kind in where.log:
        check_installed(kind)
    check_out(where.out)
    check_simulation(where, dry_run)
    named = setting.threads
    setting = with_threads(setting, where, experiments, None if dataset is None else dataset.folder)
    if show_protocol:
        print_protocol(console, protocol(setting, usual))
        if not dry_run:
            return Outcome(None)
        console.print()
    pool = pool_of(where, setting, dry_run)
    store = Store(where.out / "store", writable=not dry_run, patience=where.patience)
    found = Finder(store)
    lab = Lab(setting, where.device, None if dataset is None else dataset.folder, found)
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
    with contextlib.ExitStack() as presence:  # until nothing in the store is needed any more
        with directing(pool.signal), pool:
            missing = plan.missing(store)
            print_plan(console, setting, plan, store, measurements, left_out)
            if setting.threads != named and where.threads is None:
                console.print(
                    f"Each training has {setting.threads} threads, because the plan makes {plan.width()} at a time; "
                    "they decide its bits. --threads 1 gives it one.",
                    highlight=False,
                )
            if where.device == "cpu" and setting.precision == "bfloat16" and missing and cpu_has_bfloat16() is False:
                console.print(
                    "This CPU has no bfloat16 instructions and emulates them slowly; --set precision=float32 is "
                    "faster, and is another protocol.",
                    style="yellow",
                    highlight=False,
                )
            speed = Speed({}, "")
            if where.gpus is not None and where.images_per_second is not None:
                assumed = assumed_speed(plan, setting.batch_size, setting.evaluated_count, where.images_per_second)
                print_schedules(console, plan, missing, assumed, where.gpus, where.images_per_second)
                print_places(console, where.out, name, show_protocol)
                return Outcome(None)
            if where.device == "cuda" and any(isinstance(stage, Train) for stage in missing):
                check_gpu(setting, missing, pool)
            if any(stage.cost_depends_on for stage in missing):
                with console.status("timing a few steps"):
                    speed = estimate(plan, store, setting.train_size, setting.evaluated_count, pool, where.cohort)
                print_estimate(console, speed.total(missing, plan, pool.count), speed.basis, pool.count)
            if dry_run:
                print_places(console, where.out, name, show_protocol)
                return Outcome(None)
            presence.enter_context(store.present(name))
            store.sweep()
            note_plan(store, name, plan.stages, where.command, "stopped")
            shown, config = RoundDisplay(console, speed, pool.count), to_json(setting)
            watcher = watching(shown, console, store, where.log, where.json, where.out / name, config)
            with contextlib.closing(watcher) as display:
                measurements, entries = run_rounds(experiments, lab, found, store, pool, display)
            store.sweep()  # what a run on another machine left can be told only after a while
        lost = {entry.stage for entry in entries if entry.status in ("failed", "skipped")}
        failed = tuple(entry.label for entry in entries if entry.status == "failed")
        for label in failed:
            console.print(f"failed: {label}", style="red", markup=False, highlight=False)
        kept = [m for m in measurements if not any(stage.key in lost for stage in m.stages)]
        if not kept:
            console.print("nothing could be measured: every stage needed one that failed", style="red")
            console.print(_advice(entries), style="red")
            note_plan(store, name, plan_of(measurements).stages, where.command, "failed")
            return Outcome(None, failed)
        from sparselt.data.contact_sheet import write_contact_sheet
        from sparselt.report.run import SAMPLES

        record = run_record(setting, usual, where.device, lab, store)
        record["experiments"] = {name: {"title": e.title, "paper": e.paper} for name, e in experiments.items()}
        folder = where.out / name
        rows = [{"setting": setting.name, "scale": setting.scale, **row} for m in kept for row in m.rows(store.read)]
        entries = with_densities(entries, plan_of(measurements).stages, store)
        of_this_call = {"command": where.command, "failed": list(failed), "rows": len(rows)}
        networks = network_rows(measurements, lost, lab, store, folder)
        try:
            _write(folder, rows, record, of_this_call, entries, networks)
            write_contact_sheet(dataset_of(lab, store), "train", folder / SAMPLES, columns=5)
            note_plan(store, name, plan_of(measurements).stages, where.command, "failed" if failed else "done")
            report(folder, console, sections)
        except StoreError as error:
            raise StoreError(
                f"{str(error).rstrip('.')}; every stage is kept, and the same command writes the results and the report"
            ) from error
        if failed:
            skipped = sum(entry.status == "skipped" for entry in entries)
            console.print(
                f"\n{count(len(failed), 'stage')} failed, and {skipped} that {verb(skipped, 'needs', 'need')} "
                f"{verb(len(failed), 'it', 'them')} {verb(skipped, 'was', 'were')} skipped; the rest is kept. "
                f"{_advice(entries)}",
                style="red",
            )
        return Outcome(folder, failed)


def chosen(
    names: Sequence[str], known: Mapping[str, Experiment], setting: Setting
) -> tuple[dict[str, Experiment], dict[str, str]]:
    """The experiments to run, in the order in which they are known, and why others that were not asked for cannot run.

    Args:
        names: of experiments; `main`: those that show a paper's main finding; none: all that apply.

    Raises:
        SettingError: an unknown name, or an experiment that the setting cannot run.
    """
    for name, experiment in known.items():
        if not isinstance(experiment, Experiment):
            raise SettingError(f"EXPERIMENTS[{name!r}] is {experiment!r}; expected Experiment(driver, paper)")
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or name == "main":
            raise SettingError(f"an experiment is called {name!r}; expected letters, digits, _ and -, and not main")
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


def _read_by(experiments: Mapping[str, Experiment], setting: Setting) -> tuple[str, ...]:
    """Those of the values that were left out which the setting itself or one of these experiments reads."""
    names = {
        name for owner in (setting, *(e.options for e in experiments.values() if e.options)) for name in rules(owner)
    }
    return tuple(text for text in setting.left_out if text.partition(" ")[0] in names)


def _advice(entries: Iterable[Entry]) -> str:
    """What to do about the stages that failed."""
    again = {entry.repeats for entry in entries if entry.status == "failed"}
    diverged = "A training that diverged does so again: change its setting."
    if again == {True}:
        return diverged
    return "The same command tries again what failed." + (f" {diverged}" if True in again else "")


def _hash(setting: Setting, device: str, experiments: Mapping[str, Experiment], lab: Lab) -> str:
    """What tells the run's folder from those of other values."""
    values = {name: value for name, value in to_json(setting).items() if name not in _NO_VALUES}
    # What an installed package varies counts only in runs of its own: installing one moves no other run's folder.
    kinds = {experiment.options for experiment in experiments.values()}
    counted = [o for o in setting.options if type(o) in kinds or type(o).__module__.startswith("sparselt.")]
    # Under this name since the first version, whose folders are found so.
    values["grids"] = {name: value for options in counted for name, value in to_json(options).items()}
    return digest([values, device, list(experiments), lab.dataset.key])[:8]


def _write(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    record: Mapping[str, Any],
    of_this_call: Mapping[str, Any],
    entries: Iterable[Entry],
    networks: Iterable[NetworkRow],
) -> None:
    from sparselt.report.results import write_results, write_text
    from sparselt.report.run import rules_record

    record = {**record, "rules": rules_record(folder)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, rows, record)
        text = json.dumps({**record, **of_this_call}, indent=1, ensure_ascii=False)
        write_text(folder / "record.json", text + "\n")
        write_ledger(entries, folder / "ledger.csv")
        write_networks(networks, folder)
    except OSError as error:
        raise StoreError(
            f"run folder {folder} cannot be written ({error.strerror}); choose another with --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty folder only
