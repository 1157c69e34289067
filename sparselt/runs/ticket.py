"""A trained network of a run, to be taken elsewhere: `Run.ticket(…)`, and its folder for others, `Ticket.export`."""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselt.errors import SettingError, StoreError, naming_extras
from sparselt.runs.networks import NetworkRow
from sparselt.runs.store import is_intact

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sparselt.masks import Mask
    from sparselt.runs.folder import Run

_BATCH, _ROUNDS = 64, 15


class Ticket:
    """A trained network of a run, masked or dense.

    Args:
        run: the run.
        row: the network, as in networks.csv.

    Raises:
        StoreError: its weights, its mask or the record of its training are missing or damaged.
    """

    def __init__(self, run: "Run", row: NetworkRow):
        self.run, self.row = run, row
        self._weights = run.place(row.weights)
        self._mask = run.place(row.mask) if row.mask else None
        for path in (self._weights, self._mask):
            if path is not None and not is_intact(path):
                raise StoreError(f"{path} is missing or damaged; run the run's command again, which makes it anew")
        try:
            spec = json.loads((self._weights.parent / "stage.json").read_text())["spec"]
            self.model_name, self.classes, self.channels = spec["recipe"]["model"], spec["classes"], spec["channels"]
            self._source = spec.get("model_source")
            protocol = {name: value for name, value, _ in run.record["protocol"]}
            self.size = int(protocol.get("eval_size", protocol["train_size"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._weights.parent} has no record of its training ({error}); run the run's command again"
            ) from error

    @cached_property
    def weights(self) -> "dict[str, torch.Tensor]":
        """Weights and buffers by name, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self._weights)

    @cached_property
    def mask(self) -> "Mask | None":
        """The mask; None for a dense network."""
        from sparselt.masks import Mask

        return None if self._mask is None else Mask.load(self._mask)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What the run measured of the network alone, by metric: test_error (a fraction), test_loss (nats), …"""
        rows, row = self.run.results, self.row
        for name in ("experiment", "variant", "replicate", "level"):
            rows = rows[rows[name] == getattr(row, name)]
        for name, found in (("rewind_step", row.rewind_step), ("condition", row.condition or None)):
            rows = rows[rows[name].isna() if found is None else rows[name] == found]
        rows = rows[rows["to_level"].isna() & rows["position"].isna()]
        return {metric: float(value) for metric, value in zip(rows["metric"], rows["value"], strict=True)}

    def model(self) -> "nn.Module":
        """The network with its weights, on the CPU, in eval mode.

        Raises:
            SettingError: a network of the user's own whose file has changed since.
        """
        from sparselt.models import blank_model, check_unedited

        check_unedited(self.model_name, self._source)
        model = blank_model(self.model_name, self.classes, self.channels)
        model.load_state_dict(self.weights)
        return model.eval()

    def export(self, folder: str | os.PathLike, *, onnx: bool = False, measure: bool = True) -> Path:
        """Writes a folder with all that somebody else needs, and returns its path.

        model.safetensors: weights and buffers. mask.safetensors: bool tensors by name, if there is a mask. model.pt2:
        the network as a program, which torch runs without sparselt. model.onnx: the same for other runtimes.
        ticket.json: all facts. README.md: a model card.

        Args:
            folder: does not exist, or is empty. It is written whole or not at all.
            onnx: write model.onnx, too (`pip install sparselt[onnx]`).
            measure: time inference on this machine, for the card; some seconds.

        Raises:
            StoreError: the folder exists and is not empty, or cannot be written.
            SettingError: torch.export cannot turn the network into a program.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"{target} exists already; give the name of a new folder")
        facts = self._facts(measure)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                self._write(made, facts, onnx)
                made.chmod(0o755)
                made.replace(target)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError as error:
            raise StoreError(f"{target} cannot be written ({error.strerror}); choose another folder") from error
        return target

    def _facts(self, measure: bool) -> dict[str, Any]:
        record, row = self.run.record, self.row
        evaluation = {name: record["evaluation"][name] for name in ("mean", "std", "scale", "crop", "resize")}
        return {
            "title": record["title"],
            "paper": record["paper"],
            "data": record["data"],
            "model": {"name": self.model_name, "classes": self.classes, "channels": self.channels, "size": self.size},
            "input": evaluation,
            "network": {
                name: getattr(row, name)
                for name in ("experiment", "variant", "condition", "replicate", "rewind_step", "level")
            },
            "density": 1.0 if self.mask is None else self.mask.density,
            "metrics": self.metrics,
            "layers": [] if self.mask is None else [_pattern(name, live) for name, live in self.mask.items()],
            "speed": self._speed() if measure else None,
            "made_by": {"command": record["command"], "versions": record["versions"], "seed": record["seed"]},
        }

    def _write(self, folder: Path, facts: dict[str, Any], onnx: bool) -> None:
        import torch
        from safetensors.torch import save

        (folder / "model.safetensors").write_bytes(save(self.weights, {"format": "pt"}))
        if self.mask is not None:
            layers = {name: layer.contiguous() for name, layer in self.mask.items()}
            (folder / "mask.safetensors").write_bytes(save(layers, {"format": "pt"}))
        example = torch.zeros(2, self.channels, self.size, self.size)
        batch = ({0: torch.export.Dim("batch")},)
        model = self.model().to(memory_format=torch.contiguous_format)
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=batch)
        except Exception as error:
            raise SettingError(
                f"torch.export cannot turn {self.model_name} into a program ({type(error).__name__}: {error})"
            ) from error
        torch.export.save(program, folder / "model.pt2")
        if onnx:
            with naming_extras():
                converted = torch.onnx.export(program, (example,), dynamo=True, verbose=False)
            assert converted is not None
            converted.save(folder / "model.onnx")
        (folder / "ticket.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        (folder / "README.md").write_text(card(facts, onnx))

    def _speed(self) -> dict[str, Any]:
        """Seconds for a batch of images here, on one thread: torch's dense network, and its live weights alone."""
        import platform

        import torch

        from sparselt.models.sparsify import sparsify_
        from sparselt.training.cpu import cpu_threads

        calls = {"dense": self.model()}
        if self.mask is not None:
            calls["live weights alone"] = self.model()
            sparsify_(calls["live weights alone"], self.mask, up_to=1.0)
        images = torch.randn(_BATCH, self.channels, self.size, self.size)
        with torch.no_grad(), cpu_threads(1):
            seconds = _interleaved({name: partial(model, images) for name, model in calls.items()})
        return {
            "seconds": seconds,
            "images": _BATCH,
            "machine": platform.processor() or platform.machine(),
        }


def card(facts: dict[str, Any], onnx: bool = False) -> str:
    """The model card of a ticket's facts, in Markdown."""
    model, network, shape = facts["model"], facts["network"], facts["input"]
    masked = bool(facts["layers"])
    of = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in network.items() if value not in ("", None))
    lines = [
        f"# {model['name']}, {facts['density']:.1%} of its weights" if masked else f"# {model['name']}, dense",
        "",
        f"{facts['title']}. A network of a run of sparselt: {of}.",
        "",
        "```python",
        "import torch",
        "",
        'model = torch.export.load("model.pt2").module()',
        f"outputs = model(images)  # float32 [N, {model['channels']}, {model['size']}, {model['size']}] → [N, "
        f"{model['classes']}]",
        "```",
        "",
        "With sparselt, to train it on:",
        "",
        "```python",
        "from safetensors.torch import load_file",
        "from sparselt.models import build_model",
        "",
        f'model = build_model("{model["name"]}", classes={model["classes"]}, channels={model["channels"]}, seed=0)',
        'model.load_state_dict(load_file("model.safetensors"))',
    ]
    if masked:
        lines += ['mask = load_file("mask.safetensors")  # bool by name, for MaskedSGD(…, mask=mask)']
    lines += [
        "```",
        "",
        f"Input: pixels / {shape['scale']:g}, minus {shape['mean']}, over {shape['std']}, by channel. Crop: "
        f"{shape['crop']}; resize: {shape['resize']}.",
        *(["", "`model.onnx` is the same network for ONNX runtimes."] if onnx else []),
        "",
        "## Measured by the run",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {metric.replace('_', ' ')} | {_number(metric, value)} |" for metric, value in facts["metrics"].items()),
        f"| weights remaining | {facts['density']:.2%} |",
        "",
        f"Data: {facts['data']} Protocol: {facts['paper']}. Errors are of this one network; the run's report "
        "says how they spread.",
        "",
        f"Made by `{facts['made_by']['command']}`, seed {facts['made_by']['seed']}, "
        + ", ".join(f"{name} {version}" for name, version in facts["made_by"]["versions"].items())
        + ".",
        "",
    ]
    return "\n".join(lines + (_of_speed(facts) if masked else []))


def _of_speed(facts: dict[str, Any]) -> list[str]:
    layers, speed = facts["layers"], facts["speed"]
    empty = sum(layer["empty_outputs"] for layer in layers)
    outputs = sum(layer["shape"][0] for layer in layers)
    fitting = [layer for layer in layers if layer["two_of_four"] == 1]
    measured = "not measured"
    if speed is not None:
        dense, live = (1000 * speed["seconds"][name] for name in ("dense", "live weights alone"))
        measured = (
            f"{dense / live:.2f}× ({dense:.2f} → {live:.2f} ms for {speed['images']} images, one thread, "
            f"{speed['machine']})"
        )
    whole = f"{len(fitting)} of {len(layers)} layers have at most two live weights in every four input channels"
    return [
        "## What the zeros give",
        "",
        "| pattern | found | may give | gives here |",
        "|---|---|---|---|",
        f"| single weights | {facts['density']:.2%} live | on a CPU, `sparselt.sparsify_(model, mask, up_to=1)` | "
        f"{measured} |",
        f"| 2:4 | {whole} | on NVIDIA GPUs from Ampere on, in 16 bits, up to 2× for these layers' products, after "
        "conversion | none: a CPU has no such kernels |",
        f"| whole channels | {empty} of {outputs} outputs have no live weight | on any hardware, once the channels are "
        "removed | none: torch computes them as any others |",
        "",
        "| layer | shape | live | outputs without live weights | groups of four with at most two |",
        "|---|---|---|---|---|",
        *(
            f"| {layer['name']} | {' × '.join(map(str, layer['shape']))} | {layer['density']:.1%} | "
            f"{layer['empty_outputs']} | "
            + ("–" if layer["two_of_four"] is None else f"{layer['two_of_four']:.1%}")
            + " |"
            for layer in layers
        ),
        "",
    ]


def _pattern(name: str, live: "torch.Tensor") -> dict[str, Any]:
    """The structure of a layer's mask. two_of_four: of all groups of four input channels; None where there are none."""
    outputs, inputs = live.shape[:2]
    grouped = None
    if inputs % 4 == 0:
        groups = live.reshape(outputs, inputs // 4, 4, -1).sum(2)
        grouped = float((groups <= 2).float().mean())
    return {
        "name": name,
        "shape": list(live.shape),
        "density": float(live.float().mean()),
        "empty_outputs": int((~live.flatten(1).any(1)).sum()),
        "two_of_four": grouped,
    }


def _interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for place in range(_ROUNDS + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if place >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _number(metric: str, value: float) -> str:
    return f"{value:.2%}" if metric.endswith("error") else f"{value:.4g}"
