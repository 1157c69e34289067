"""One run from its options to its report."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sparselt.errors import DataError, SettingError, SparseltError, StoreError
from sparselt.experiments import EXPERIMENTS, MAIN, Experiment, Lab, Measurement
from sparselt.experiments.setting import Setting, nearest
from sparselt.reproduce import load_setting
from sparselt.reproduce.display import ProgressDisplay, print_estimate, print_plan, print_protocol
from sparselt.reproduce.doctor import cpu_has_bfloat16
from sparselt.reproduce.found import Finder
from sparselt.reproduce.record import protocol, run_record
from sparselt.runs.devices import cuda_devices
from sparselt.runs.estimate import Speed, estimate
from sparselt.runs.executor import Workers, default_workers, execute
from sparselt.runs.kinds import KINDS
from sparselt.runs.ledger import Entry, write_ledger
from sparselt.runs.plan import Plan
from sparselt.runs.stage import digest, plain
from sparselt.runs.store import Store

if TYPE_CHECKING:
    from sparselt.reproduce.cli import Options


def reproduce(options: "Options") -> int:
    """Plans, runs and reports what `options` ask for; returns the exit code.

    Everything is checked before anything is written.
    """
    console = Console()
    setting = _setting(options)
    names, left_out = _experiments(options.experiments, setting)
    _check_device(options.device)
    data = _data(options, setting)
    devices = cuda_devices() if options.device == "cuda" else []
    workers = options.workers if options.workers is not None else len(devices) or default_workers(setting.threads)
    pool = Workers(workers, options.cohort, devices)
    store = Store(options.out / "store", writable=not options.dry_run)
    found = Finder(store)
    lab = Lab(setting, options.device, data, found)
    measurements = _measurements(names, lab)
    plan = _plan(measurements)
    if not measurements:
        found.check(plan, ())
        raise SettingError(f"{' and '.join(names)}: no measurement is yielded, and so there is nothing to run")
    folder = options.out / f"{setting.name}-{setting.scale}-{_hash(setting, options.device, names, lab)}"
    with pool:
        missing = plan.missing(store)
        if options.dry_run:
            print_protocol(console, protocol(setting))
            console.print()
        print_plan(console, setting, plan, store, measurements, left_out)
        if options.device == "cpu" and setting.precision == "bfloat16" and missing and cpu_has_bfloat16() is False:
            console.print(
                "This CPU has no bfloat16 instructions and emulates them slowly; --set precision=float32 is faster, "
                "and is another protocol.",
                style="yellow",
                highlight=False,
            )
        speed = Speed({}, "")
        if any(KINDS[stage.kind].counts in ("steps", "points") for stage in missing):
            with console.status("timing a few steps"):
                speed = estimate(plan, store, setting.train_size, setting.test_count, pool)
            print_estimate(console, speed.total(missing, plan, workers), speed.basis, workers)
        if options.dry_run:
            return 0
        store.sweep()
        measurements, entries = _rounds(names, lab, found, store, pool, console, speed)
    return _report(console, folder, setting, options, names, lab, store, measurements, entries)


def _rounds(
    names: list[str], lab: Lab, found: Finder, store: Store, pool: Workers, console: Console, speed: Speed
) -> tuple[list[Measurement], list[Entry]]:
    """Runs what is missing, and again what the experiments ask for once that is measured, until they ask no more."""
    entries: dict[str, Entry] = {}
    while True:
        found.forget()
        measurements = _measurements(names, lab)
        lost = {entry.stage for entry in entries.values() if entry.status in ("failed", "skipped")}
        plan = _plan([m for m in measurements if not any(stage.key in lost for stage in m.stages)])
        missing = plan.missing(store)
        fresh = [stage for stage in missing if stage.key not in lost and not (stage.local and stage.key in entries)]
        if entries and not fresh:
            found.check(plan, lost)
            return measurements, list(entries.values())
        display = ProgressDisplay(console, plan, missing, speed, pool.count)
        if entries:
            more = sum(stage.kind == "train" for stage in fresh)
            console.print(f"What was measured asks for more: {more} trainings.", highlight=False)
        if fresh:
            with display:
                ran = execute(plan, store, pool, display)
        else:
            ran = execute(plan, store, pool, display)
        for entry in ran:
            entries.setdefault(entry.stage, entry)


def _measurements(names: Iterable[str], lab: Lab) -> list[Measurement]:
    """What the experiments measure now.

    Raises:
        SettingError: what a driver of the user's may yield: a measurement twice, two trainings or two paths in the
            same cells of the table, a measurement in another experiment's name.
    """
    found: list[Measurement] = []
    cells: set[tuple] = set()
    for name in names:
        for m in _yielded(name, lab):
            if m.experiment != name:
                raise SettingError(
                    f"experiment {name} yields a Measurement of experiment {m.experiment!r}, whose figures would show "
                    f"it; expected Measurement({name!r}, …)"
                )
            place = (m.variant, m.replicate, m.rewind_step, m.level, m.to_level, m.condition)
            # Stages of other kinds may differ in the places that their numbers state themselves.
            cell = (name, *place, m.stage.kind, "" if m.stage.kind in ("train", "path") else m.stage.key, m.metrics)
            if cell in cells:
                levels = f"level {m.level}" if m.to_level is None else f"levels {m.level} to {m.to_level}"
                what = {"train": "training", "path": "path"}.get(m.stage.kind, f"stage of kind {m.stage.kind}")
                raise SettingError(
                    f"experiment {name} measures variant {m.variant}, replicate {m.replicate}, rewind step "
                    f"{m.rewind_step}, {levels} twice, each time a {what}; tell them apart by "
                    "Measurement(condition='name=value')"
                )
            cells.add(cell)
            found.append(m)
    return found


def _yielded(name: str, lab: Lab) -> Iterator[Measurement]:
    """What an experiment yields; an error of its driver's names it."""
    try:
        yield from EXPERIMENTS[name](lab)
    except SparseltError:
        raise
    except Exception as error:
        error.add_note(f"This was raised by the driver of experiment {name}.")
        raise


def _plan(measurements: Iterable[Measurement]) -> Plan:
    return Plan(stage for measurement in measurements for stage in measurement.stages)


def _setting(options: "Options") -> Setting:
    setting = load_setting(options.setting, options.scale)
    if "main" in options.experiments:
        setting = setting.changed(**setting.main)
    given = {name: value for name in ("replicates", "seed") if (value := getattr(options, name)) is not None}
    return dataclasses.replace(setting, **given).with_values(options.set).check()


def _experiments(names: Sequence[str], setting: Setting) -> tuple[list[str], dict[str, str]]:
    """The experiments to run, in the order of `EXPERIMENTS`, and why others that were not asked for cannot run."""
    for name, experiment in EXPERIMENTS.items():
        if not isinstance(experiment, Experiment):
            raise SettingError(f"EXPERIMENTS[{name!r}] is {experiment!r}; expected Experiment(driver, paper)")
    reasons = {name: reason for name, e in EXPERIMENTS.items() if (reason := e.why_not(setting))}
    if not names:
        return [name for name in EXPERIMENTS if name not in reasons], reasons
    chosen: set[str] = set()
    for name in names:
        if name == "main":
            chosen |= {main for main in MAIN if main in EXPERIMENTS and main not in reasons}
        elif name not in EXPERIMENTS:
            raise SettingError(f"unknown experiment {name!r}{nearest(name, [*EXPERIMENTS, 'main'])}")
        elif name in reasons:
            raise SettingError(f"{setting.name} at scale {setting.scale} cannot run {name}: {reasons[name]}")
        else:
            chosen.add(name)
    return sorted(chosen, key=list(EXPERIMENTS).index), {}


def _check_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SettingError(
                "--device cuda: torch sees no CUDA device here; use --device cpu, or check `sparselt doctor`"
            )


def _data(options: "Options", setting: Setting) -> Path | None:
    from sparselt.data import open_dataset

    if options.data is None:
        if setting.source is None:
            if options.dry_run:
                return None
            raise DataError(
                f"{setting.name} at scale {setting.scale} needs its images: give --data DIR, a folder with "
                "manifest.json, train.beton and test.beton, made by `sparselt data write imagenet PICTURES DIR`; or "
                "run --scale smoke, on made-up images"
            )
        for name in ("classes", "train_count", "test_count"):
            if getattr(setting, name) != getattr(setting.source, name):
                raise SettingError(
                    f"{name} is {getattr(setting, name)}, but {setting.name} has {getattr(setting.source, name)}; "
                    "change it only together with --data"
                )
        return None
    dataset = open_dataset(options.data)
    dataset.require(classes=setting.classes, field="ndarray" if setting.engine == "resident" else "rgb_image")
    if setting.engine == "resident":
        dataset.require(shape=(setting.channels, setting.train_size, setting.train_size))
    for split, count in (("train", setting.train_count), ("test", setting.test_count)):
        if dataset.count(split) != count:
            raise DataError(
                f"{options.data} holds {dataset.count(split):,} {split} images, {setting.name} at scale "
                f"{setting.scale} {count:,}; choose the right folder, or --set {split}_count={dataset.count(split)}"
            )
    return options.data


def _hash(setting: Setting, device: str, experiments: list[str], lab: Lab) -> str:
    values = {
        name: value
        for name, value in plain(setting).items()
        if name not in ("sources", "source", "title", "paper", "main")
    }
    return digest([values, device, experiments, lab.dataset.key])[:8]


def _report(
    console: Console,
    folder: Path,
    setting: Setting,
    options: "Options",
    names: list[str],
    lab: Lab,
    store: Store,
    measurements: list[Measurement],
    entries: list[Entry],
) -> int:
    failed = [entry for entry in entries if entry.status == "failed"]
    for entry in failed:
        console.print(f"failed: {entry.label}", style="red", markup=False, highlight=False)
    lost = {entry.stage for entry in entries if entry.status in ("failed", "skipped")}
    kept = [measurement for measurement in measurements if not any(stage.key in lost for stage in measurement.stages)]
    if not kept:
        console.print("nothing could be measured: every stage needed one that failed", style="red")
        return 1
    rows = [
        {"setting": setting.name, "scale": setting.scale, **row}
        for measurement in kept
        for row in measurement.rows(store.read)
    ]
    record = run_record(setting, options.device, lab, store)
    record["experiments"] = {
        name: {"title": EXPERIMENTS[name].title, "paper": EXPERIMENTS[name].paper} for name in names
    }
    from sparselt.experiments.sections import built_in_sections
    from sparselt.report import console_summary, write_report
    from sparselt.report.results import write_results

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, rows, record)
        _write_json(
            folder / "record.json",
            record | {"command": options.command, "failed": [entry.label for entry in failed], "rows": len(rows)},
        )
        write_ledger(entries, folder / "ledger.csv")
    except OSError as error:
        raise StoreError(
            f"run folder {folder} cannot be written ({error.strerror}); choose another with --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # which does nothing to a folder that holds something
    sections = built_in_sections()
    write_report(folder, sections)
    console.print()
    console_summary(folder, console, sections)
    if failed:
        skipped = sum(entry.status == "skipped" for entry in entries)
        console.print(
            f"\n{len(failed)} stages failed and {skipped} that need them were skipped; the rest is kept.", style="red"
        )
    return 1 if failed else 0


def _write_json(path: Path, value: dict[str, Any]) -> None:
    from sparselt.report.results import write_text

    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
