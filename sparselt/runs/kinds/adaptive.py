"""The stage that prunes as much as the training loss along the way allows (Paul et al. 2022, section 2.2)."""

import json
from typing import TYPE_CHECKING

from sparselt.runs.kinds.masks import empty_values, live_weights
from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    from sparselt.analysis import AdaptiveSearch
    from sparselt.masks import Mask


def adaptive_prune(task: Task) -> int:
    """The next level's mask at the largest ratio whose path stays below the dense network's training loss plus ε.

    Loss and ε are those of the dense training's last epoch, as it went: in training mode, on augmented images. That is
    the paper's first step read literally. The losses along the paths are in eval mode, on training images as they are.
    """
    from sparselt.pruning import magnitude_prune
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    with cpu_threads(task.spec["threads"]):
        mask = live_weights(task)
        search, points = sweep(task, mask)
        pruned = magnitude_prune(load_tensors(task.inputs["weights"]), mask, search.fraction, task.spec["scope"])
    empty = empty_values(pruned)
    pruned.save(task.folder / "mask.safetensors")
    values = [
        *empty,
        {"metric": "fraction", "value": search.fraction},
        {"metric": "largest_fraction", "value": search.largest or 0.0},
        {"metric": "threshold", "value": search.threshold},
        {"metric": "pruned_density", "value": pruned.density},
    ]
    for fraction, losses in zip(search.fractions, search.losses, strict=True):
        values.append({"metric": "largest_loss", "value": _largest(losses), "position": fraction})
    write_json(task.folder / "values.json", {"values": values, "density": pruned.density, "note": search.note})
    return points


def sweep(task: Task, mask: "Mask") -> "tuple[AdaptiveSearch, int]":
    """The search that the spec asks for, at the network `weights`, and how many points it was worth.

    The threshold comes from the measurements of the training `dense`. The network's weights stay as they are.
    """
    import torch

    from sparselt.analysis import TrainThreshold, adaptive_fraction, path_positions
    from sparselt.models import build_model
    from sparselt.runs import loaders
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.techniques import Techniques

    spec = task.spec
    dense = json.loads(task.inputs["dense"].read_text())
    device = torch.device(spec["device"])
    batches = loaders.eval_loader(
        task, spec["threads"], split="train", images=spec["images"], seed=spec["subsample_seed"]
    )
    networks = 1 + len(spec["fractions"]) * (spec["points"] - 1)
    points = max(1, round(networks * batches.count / loaders.dataset(task.inputs["dataset"]).count("test")))
    search = adaptive_fraction(
        build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0).to(device),
        {name: tensor.to(device) for name, tensor in load_tensors(task.inputs["weights"]).items()},
        mask,
        batches,
        TrainThreshold(dense["train_loss"], dense["train_loss_std"]).value,
        fractions=spec["fractions"],
        positions=path_positions(spec["points"]),
        scope=spec["scope"],
        minimum=spec["minimum"],
        techniques=Techniques(**spec["techniques"]),
        precision=spec["precision"],
        on_batch=lambda done: task.report(points * done // len(batches)),
    )
    return search, points


def _largest(losses: tuple[float, ...]) -> float:
    """NaN where any is: `max` would hide it."""
    return float("nan") if any(loss != loss for loss in losses) else max(losses)
