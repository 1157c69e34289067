"""What a run writes down of itself: the protocol with the source of every number, data, versions, machine."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparselt.experiments import Lab
from sparselt.experiments.setting import Setting
from sparselt.reproduce import load_setting
from sparselt.runs.stage import plain
from sparselt.runs.store import Store, versions

_PROTOCOL = (
    "model", "initialization", "norm_scale", "techniques", "train_size", "eval_size", "eval_ratio",
    "eval_interpolation", "padding", "flip", "batch_size", "micro_batches", "compile", "steps", "schedule", "lr",
    "milestones", "lr_factor", "warmup_steps", "momentum", "weight_decay", "nesterov", "decoupled_weight_decay",
    "precision", "levels", "fraction", "scope", "rewind_steps", "rewound_momentum", "replicates", "dense_replicates",
    "reshuffle", "control_levels", "control_rewind_step", "path_points", "threads", "seed",
)  # fmt: skip
_STREAMING_ONLY = ("eval_size", "eval_ratio", "eval_interpolation")
_RESIDENT_ONLY = ("padding",)
_STEP_SCHEDULE_ONLY = ("milestones", "lr_factor")


def run_record(setting: Setting, device: str, lab: Lab, store: Store) -> dict[str, Any]:
    """What `record.json` holds, but for the command and what failed."""
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
        "protocol": protocol(setting),
        "replicates": setting.replicates,
        "rewind_steps": list(setting.rewind_steps),
        "levels": setting.levels,
        "steps": setting.steps,
        "fraction": setting.fraction,
        "versions": versions(),
        "device": _device_name(device),
        "seed": setting.seed,
    }


def protocol(setting: Setting) -> list[tuple[str, Any, str]]:
    """Every number of the protocol: name, value, source."""
    hidden = _RESIDENT_ONLY if setting.engine == "streaming" else _STREAMING_ONLY
    hidden += _STEP_SCHEDULE_ONLY if setting.schedule == "cosine" else ()
    hidden += () if setting.dense_replicates > setting.replicates else ("dense_replicates",)
    names = [name for name in _PROTOCOL if name not in hidden]
    values = {name: getattr(setting, name) for name in names}
    values |= {f.name: getattr(setting.grids, f.name) for f in fields(setting.grids)}
    asked = {name: value for name, value in values.items() if name in names or value not in ((), 0, 0.0)}
    default = load_setting(setting.name)
    return [(name, plain(value), _source(setting, default, name)) for name, value in asked.items()]


def _source(setting: Setting, default: Setting, name: str) -> str:
    """Where a number comes from; that of the default scale's number holds for that number only."""
    source = setting.sources.get(name, "ours")
    of = setting.grids if hasattr(setting.grids, name) else setting
    usual = getattr(default.grids if of is setting.grids else default, name)
    if getattr(of, name) == usual or source != default.sources.get(name, "ours") or source == "ours":
        return source
    return f"changed for scale {setting.scale}, or by --set, from {_text(usual)}: {source}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
