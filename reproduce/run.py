"""One run from its options to its report."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sparselt.errors import DataError, SettingError, StoreError
from sparselt.experiments import EXPERIMENTS, Lab, Measurement
from sparselt.experiments.setting import Setting, nearest
from sparselt.reproduce import load_setting
from sparselt.reproduce.display import ProgressDisplay, print_estimate, print_plan, print_protocol
from sparselt.runs.estimate import Speed, estimate
from sparselt.runs.executor import Workers, default_workers, execute
from sparselt.runs.ledger import Entry, write_ledger
from sparselt.runs.plan import Plan
from sparselt.runs.stage import digest, plain
from sparselt.runs.store import Store, versions

if TYPE_CHECKING:
    from sparselt.reproduce.cli import Options

_PROTOCOL = (
    "model", "initialization", "norm_scale", "techniques", "train_size", "eval_size", "eval_ratio",
    "eval_interpolation", "padding", "flip", "batch_size", "micro_batches", "steps", "schedule", "lr", "milestones",
    "lr_factor", "warmup_steps", "momentum", "weight_decay", "nesterov", "decoupled_weight_decay",
    "precision", "levels", "fraction", "scope", "rewind_steps", "rewound_momentum", "replicates", "dense_replicates",
    "reshuffle", "control_levels", "control_rewind_step", "path_points", "threads", "seed",
)  # fmt: skip
_STREAMING_ONLY = ("eval_size", "eval_ratio", "eval_interpolation")
_RESIDENT_ONLY = ("padding",)
_STEP_SCHEDULE_ONLY = ("milestones", "lr_factor")


def reproduce(options: "Options") -> int:
    """Plans, runs and reports what `options` ask for; returns the exit code.

    Everything is checked before anything is written.
    """
    console = Console()
    setting = _setting(options)
    names = _experiments(options.experiments)
    _check_device(options.device)
    data = _data(options, setting)
    workers = options.workers if options.workers is not None else _default_workers(options.device, setting)
    pool = Workers(workers)
    lab = Lab(setting, options.device, data)
    measurements = [measurement for name in names for measurement in EXPERIMENTS[name](lab)]
    plan = Plan(stage for measurement in measurements for stage in measurement.stages)
    store = Store(options.out / "store", writable=not options.dry_run)
    folder = options.out / f"{setting.name}-{setting.scale}-{_hash(setting, options.device, names, lab)}"
    with pool:
        missing = plan.missing(store)
        trains = any(stage.kind in ("train", "path") for stage in missing)
        if options.dry_run:
            print_protocol(console, _protocol(setting))
            console.print()
        print_plan(console, setting, plan, store, measurements)
        speed = Speed({}, "")
        if trains:
            with console.status("timing a few steps"):
                speed = estimate(plan, store, setting.train_size, setting.test_count, pool)
            print_estimate(console, speed.total(missing, plan, workers), speed.basis, workers)
        if options.dry_run:
            return 0
        store.sweep()
        if missing:
            with ProgressDisplay(console, plan, missing, speed, workers) as display:
                entries = execute(plan, store, pool, display)
        else:
            entries = execute(plan, store, pool, ProgressDisplay(console, plan, missing, speed, workers))
    return _report(console, folder, setting, options, lab, store, measurements, entries)


def _setting(options: "Options") -> Setting:
    setting = load_setting(options.setting, options.scale).with_values(options.set)
    changes: dict[str, Any] = {}
    for name in ("replicates", "seed"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return dataclasses.replace(setting, **changes).check()


def _experiments(names: Iterable[str]) -> list[str]:
    for name in names:
        if name not in EXPERIMENTS:
            raise SettingError(f"unknown experiment {name!r}{nearest(name, EXPERIMENTS)}")
    return sorted(set(names), key=list(EXPERIMENTS).index) or list(EXPERIMENTS)


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


def _default_workers(device: str, setting: Setting) -> int:
    return 1 if device == "cuda" else default_workers(setting.threads)


def _hash(setting: Setting, device: str, experiments: list[str], lab: Lab) -> str:
    values = {
        name: value for name, value in plain(setting).items() if name not in ("sources", "source", "title", "paper")
    }
    return digest([values, device, experiments, lab.dataset.key])[:8]


def _report(
    console: Console,
    folder: Path,
    setting: Setting,
    options: "Options",
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
    record = _record(setting, options.device, lab, store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(
            folder / "record.json", record | {"command": _command(), "failed": [entry.label for entry in failed]}
        )
        write_ledger(entries, folder / "ledger.csv")
    except OSError as error:
        raise StoreError(
            f"run folder {folder} cannot be written ({error.strerror}); choose another with --out"
        ) from error
    from sparselt.report import console_summary, write_report
    from sparselt.report.results import write_results

    write_results(folder, rows, record)
    write_report(folder)
    console.print()
    console_summary(folder, console)
    if failed:
        skipped = sum(entry.status == "skipped" for entry in entries)
        console.print(
            f"\n{len(failed)} stages failed and {skipped} that need them were skipped; the rest is kept.", style="red"
        )
    return 1 if failed else 0


def _record(setting: Setting, device: str, lab: Lab, store: Store) -> dict[str, Any]:
    from sparselt.data import evaluation_record, open_dataset

    note = store.folder(lab.dataset) / "dataset.json"
    manifest = open_dataset(note.parent / json.loads(note.read_text())["folder"]).manifest
    crop = ()
    if setting.engine == "streaming":
        crop = (setting.eval_size, setting.eval_ratio, setting.eval_interpolation)
    return {
        "setting": setting.name,
        "scale": setting.scale,
        "title": setting.title,
        "paper": setting.paper,
        "data": manifest.description,
        "data_fingerprint": manifest.fingerprint,
        "synthetic": manifest.synthetic,
        "evaluation": evaluation_record(manifest, *crop),
        "protocol": _protocol(setting),
        "replicates": setting.replicates,
        "rewind_steps": list(setting.rewind_steps),
        "levels": setting.levels,
        "steps": setting.steps,
        "fraction": setting.fraction,
        "versions": versions(),
        "device": _device_name(device),
        "seed": setting.seed,
    }


def _protocol(setting: Setting) -> list[tuple[str, Any, str]]:
    hidden = _RESIDENT_ONLY if setting.engine == "streaming" else _STREAMING_ONLY
    hidden += _STEP_SCHEDULE_ONLY if setting.schedule == "cosine" else ()
    hidden += () if setting.dense_replicates > setting.replicates else ("dense_replicates",)
    names = [name for name in _PROTOCOL if name not in hidden]
    return [(name, plain(getattr(setting, name)), setting.sources.get(name, "ours")) for name in names]


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"


def _command() -> str:
    return " ".join(["python -m sparselt.reproduce", *sys.argv[1:]])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    from sparselt.report.results import write_text

    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
