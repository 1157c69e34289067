"""The kinds of stages and what each does. A function reads its inputs and writes its outputs; it knows no store.

A function gets the stage's spec, the paths of its inputs, the names of the outputs wanted, the folder to write to, and
`report`, to be called with the number of steps done. It returns the number of steps (or evaluated points) it made.
Heavy imports stand inside the functions: planning needs none of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """Everything a stage's function is given."""

    spec: Mapping[str, Any]
    inputs: Mapping[str, Path]
    outputs: frozenset[str]
    folder: Path
    report: Report
    local: Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of stage. `version` rises when the same spec would give another result; old results are then not found."""

    run: Callable[[Task], int]
    version: int
    title: str
    counts: str


def make_dataset(task: Task) -> int:
    """Writes the betons of a source, or notes where the user's own betons stand after checking them."""
    from sparselt.data import open_dataset, source_from_record, write_dataset

    if "folder" in task.local:
        dataset = open_dataset(task.local["folder"])
        _write_json(task.folder / "dataset.json", {"folder": str(Path(task.local["folder"]).resolve())})
    else:
        write_dataset(source_from_record(task.spec["source"]), task.folder)
        dataset = open_dataset(task.folder)
        _write_json(task.folder / "dataset.json", {"folder": "."})
    return dataset.count("train") + dataset.count("test")


def make_resident(task: Task) -> int:
    """Reads every beton once and keeps the pixels, for all trainings to map into memory."""
    from sparselt.data import write_resident
    from sparselt.runs import loaders

    dataset = loaders.dataset(task.inputs["dataset"])
    write_resident(dataset, task.folder)
    return dataset.count("train") + dataset.count("test")


def train(task: Task) -> int:
    """Trains a network from its initialization or from a checkpoint, dense or masked; evaluates it at the end."""
    import torch

    from sparselt.masks import Mask
    from sparselt.models import build_model
    from sparselt.optim import MaskedSGD
    from sparselt.runs import loaders
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training import loop
    from sparselt.training.checkpoint import load_tensors, restore_momentum, rewind_, save_momentum, save_tensors
    from sparselt.training.cpu import cpu_threads
    from sparselt.training.techniques import start_bias_for_bce_

    spec, recipe = task.spec, recipe_from_spec(task.spec["recipe"])
    with cpu_threads(recipe.threads):
        device = torch.device(spec["device"])
        model = build_model(
            recipe.model,
            classes=spec["classes"],
            channels=spec["channels"],
            seed=spec["seeds"]["initialization"],
            initialization=recipe.initialization,
            norm_scale=recipe.norm_scale,
        )
        if recipe.techniques.bce:
            start_bias_for_bce_(model, spec["classes"])
        mask = Mask.load(task.inputs["mask"]) if "mask" in task.inputs else None
        if "weights" in task.inputs:
            rewind_(model, load_tensors(task.inputs["weights"]), mask)
        elif mask is not None:
            mask.apply_(model)
        model.to(device)
        optimizer = MaskedSGD(
            model.named_parameters(),
            lr=recipe.schedule.peak,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            decoupled_weight_decay=recipe.decoupled_weight_decay,
            mask=mask,
        )
        if "momentum" in task.inputs:
            restore_momentum(model, optimizer, load_tensors(task.inputs["momentum"]))
        start = spec["start_step"]

        def on_step(step: int) -> None:
            task.report(step - start)
            if f"step-{step}.safetensors" in task.outputs:
                save_tensors(model.state_dict(), task.folder / f"step-{step}.safetensors")
            if f"momentum-{step}.safetensors" in task.outputs:
                save_momentum(model, optimizer, task.folder / f"momentum-{step}.safetensors")

        trained = loop.train(
            model, optimizer, loaders.train_loader(task, recipe), recipe, start_step=start, on_step=on_step
        )
        error, loss = loop.evaluate(model, loaders.eval_loader(task, recipe.threads), recipe.precision)
        save_tensors(model.state_dict(), task.folder / "final.safetensors")
    density = 1.0 if mask is None else mask.density
    _write_json(
        task.folder / "measurements.json",
        {
            "density": density,
            "test_error": error,
            "test_loss": loss,
            "train_loss": trained.train_loss,
            "train_loss_std": trained.train_loss_std,
        },
    )
    return trained.steps


def prune(task: Task) -> int:
    """The next level's mask, from a trained network's weights and its mask."""
    import torch

    from sparselt.masks import Mask
    from sparselt.models import MODELS
    from sparselt.pruning import magnitude_prune
    from sparselt.training.checkpoint import load_tensors

    spec = task.spec
    if "mask" in task.inputs:
        mask = Mask.load(task.inputs["mask"])
    else:
        with torch.device("meta"):
            shapes = Mask.ones_like(MODELS[spec["model"]](spec["classes"], spec["channels"]))
        mask = Mask({name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in shapes.items()})
    pruned = magnitude_prune(load_tensors(task.inputs["weights"]), mask, spec["fraction"], spec["scope"])
    pruned.save(task.folder / "mask.safetensors")
    return 1


def random_mask(task: Task) -> int:
    """A random mask with the layerwise densities of another."""
    from sparselt.masks import Mask

    Mask.random_like(Mask.load(task.inputs["mask"]), task.spec["seed"]).save(task.folder / "mask.safetensors")
    return 1


def evaluate_path(task: Task) -> int:
    """Error and loss along the straight line between two trained networks, and the error barrier."""
    import torch

    from sparselt import analysis
    from sparselt.models import build_model
    from sparselt.runs import loaders
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    with cpu_threads(spec["threads"]):
        device = torch.device(spec["device"])
        model = build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0).to(device)
        ends = [
            {name: tensor.to(device) for name, tensor in load_tensors(task.inputs[end]).items()}
            for end in ("first", "second")
        ]
        path = analysis.evaluate_path(
            model,
            *ends,
            loaders.eval_loader(task, spec["threads"]),
            analysis.path_positions(spec["points"]),
            precision=spec["precision"],
            on_point=task.report,
        )
    _write_json(
        task.folder / "path.json",
        {
            "positions": path.positions,
            "errors": path.errors,
            "losses": path.losses,
            "barrier": path.barrier,
            "max_error": max(path.errors),
            "buffers": path.buffers,
        },
    )
    return len(path.positions)


KINDS: dict[str, Kind] = {
    "dataset": Kind(make_dataset, 2, "write or check the betons", "images"),
    "resident": Kind(make_resident, 1, "read the betons", "images"),
    "train": Kind(train, 1, "train", "steps"),
    "prune": Kind(prune, 1, "prune by magnitude", "masks"),
    "random_mask": Kind(random_mask, 1, "draw random masks", "masks"),
    "path": Kind(evaluate_path, 2, "evaluate linear paths", "points"),
}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))
