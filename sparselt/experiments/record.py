"""The record of a run: the protocol with the source of every number, data, versions, machine."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselt.experiments.lab import Lab
from sparselt.experiments.setting import Setting
from sparselt.report.data import DEFAULT_SOURCES
from sparselt.runs.store import Store
from sparselt.runs.versions import versions
from sparselt.stages.identity import to_json

if TYPE_CHECKING:
    from sparselt.data import Dataset


def dataset_of(lab: Lab, store: Store) -> "Dataset":
    """The betons that a run was made on."""
    from sparselt.data import open_dataset

    return open_dataset(store.folder(lab.dataset) / store.read(lab.dataset.note).folder)


def run_record(setting: Setting, usual: Setting, device: str, lab: Lab, store: Store) -> dict[str, Any]:
    """The content of `record.json`, without the experiments, the command and the failures."""
    from sparselt.data import evaluation_record

    manifest = dataset_of(lab, store).manifest
    crop: tuple = ()
    if setting.engine == "streaming":
        crop = (setting.eval_size, setting.eval_ratio, setting.eval_interpolation)
    held_out = {"split": "validation", "count": setting.validation_count} if setting.validation_count else {}
    return {
        "setting": setting.name,
        "scale": setting.scale,
        "title": setting.title,
        "paper": setting.paper,
        "data": manifest.description,
        "data_fingerprint": manifest.fingerprint,
        "synthetic": manifest.synthetic,
        "evaluation": evaluation_record(manifest, *crop) | held_out,
        "protocol": protocol(setting, usual),
        "replicates": setting.replicates,
        "rewind_steps": list(setting.rewind_steps),
        "levels": setting.levels,
        "steps": setting.steps,
        "fraction": setting.fraction,
        "versions": versions(),
        "device": _device_name(device),
        "seed": setting.seed,
        **({"differences": list(setting.differences)} if setting.differences else {}),
        **({"left_out": list(setting.left_out)} if setting.left_out else {}),
        "explored_seeds": list(setting.explored_seeds),
        **({"given": list(setting.given)} if setting.given else {}),
        **({"wins_at_init": True} if setting.wins_at_init else {}),
        **({} if setting.criterion == "magnitude" else {"criterion": setting.criterion}),
    }


def protocol(setting: Setting, usual: Setting) -> list[tuple[str, Any, str]]:
    """Every number of the protocol: name, value, source.

    usual: the setting at its default scale, whose sources hold for its own numbers only. A number without a source is
    a plain default, or ours.
    """
    lines = []
    owners: tuple[Any, ...] = (setting, *setting.options)
    defaults = {field.name: field.default for owner in owners for field in dataclasses.fields(owner)}
    for name, (value, _, rule) in setting.values().items():
        own = name in setting.__dataclass_fields__
        if rule.in_protocol and rule.shown(setting) and (own or value not in ((), 0, 0.0)):
            default = name not in setting.sources and value == defaults[name]
            source = DEFAULT_SOURCES[rule.torch_default] if default else _source(setting, usual, name, value)
            lines.append((name, to_json(value), source))
    return lines


def _source(setting: Setting, usual: Setting, name: str, value: Any) -> str:
    source = setting.sources.get(name, "ours")
    before = usual.values()[name][0] if name in usual.values() else value
    if value == before or source != usual.sources.get(name, "ours") or source == "ours":
        return source
    text = ", ".join(map(str, before)) if isinstance(before, tuple) else str(before)
    return f"changed for scale {setting.scale}, or by --set, from {text}: {source}"


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
