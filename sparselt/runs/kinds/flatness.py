"""Stages on how flat the loss is where a training ended, and how much a network bears early in it."""

import dataclasses
import functools
import json
import math
from typing import TYPE_CHECKING

from sparselt.runs.kinds.adaptive import sweep
from sparselt.runs.kinds.masks import live_weights
from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# ResNet-50 keeps about half a gigabyte for each image of 224 pixels when a gradient is differentiated again.
_PIXELS = 64 * 224 * 224


def measure_flatness(task: Task) -> int:
    """The Hessian's largest eigenvalues and trace at a solution, and the largest fraction that one level can prune.

    Both on the same training images. The fraction is given twice: below the dense network's training loss plus ε, as
    the adaptive heuristic has it, and below the solution's own loss plus ε, its own LCS-set (Definition 2.1).
    """
    import torch

    from sparselt.analysis.flatness import hessian_eigenvalues, hessian_trace
    from sparselt.models import build_model
    from sparselt.runs import loaders
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads
    from sparselt.training.loop import training_loss
    from sparselt.training.techniques import Techniques

    spec = task.spec
    with cpu_threads(spec["threads"]):
        mask = live_weights(task)
        search, points = sweep(task, mask)
        model = build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0)
        model.load_state_dict(load_tensors(task.inputs["weights"]))
        model.to(torch.device(spec["device"]))
        images = {"images": spec["images"], "seed": spec["subsample_seed"]}
        batches = [
            part
            for batch in loaders.eval_loader(task, spec["threads"], split="train", **images)
            for part in _parts(batch.images, batch.labels)
        ]
        loss = functools.partial(training_loss, techniques=Techniques(**spec["techniques"]))
        largest = hessian_eigenvalues(
            model,
            batches,
            mask,
            spec["eigenvalues"],
            loss=loss,
            tolerance=spec["tolerance"],
            max_products=spec["products"],
            seed=spec["subsample_seed"],
        )
        trace = hessian_trace(
            model, batches, mask, samples=spec["trace_samples"], loss=loss, seed=spec["subsample_seed"]
        )
    values = [{"metric": f"eigenvalue_{place}", "value": value} for place, value in enumerate(largest.values, start=1)]
    start = search.losses[0][0]
    epsilon = json.loads(task.inputs["dense"].read_text())["train_loss_std"]
    own = dataclasses.replace(search, threshold=start + epsilon)
    values += [
        {"metric": "eigenvalue_residual", "value": max(largest.residuals)},
        {"metric": "trace", "value": trace.mean},
        {"metric": "trace_standard_error", "value": trace.standard_error},
        {"metric": "loss", "value": start},
        {"metric": "threshold", "value": search.threshold},
        {"metric": "largest_prunable_fraction", "value": search.largest or 0.0},
        {"metric": "largest_own_fraction", "value": own.largest or 0.0},
    ]
    write_json(task.folder / "values.json", {"values": values})
    return points


def _parts(images: "Tensor", labels: "Tensor") -> "Iterator[tuple[Tensor, Tensor]]":
    """The batch in parts whose second derivatives fit the memory of a device; one part where images are small."""
    size = max(1, _PIXELS // (images.shape[2] * images.shape[3]))
    return zip(images.split(size), labels.split(size), strict=True)


def perturb(task: Task) -> int:
    """The rewound network, moved in a random direction by a multiple of what the next pruning would move it by.

    Paul et al. 2022, appendix D, take the dense network and the projection that the mask of level 1 is, at the rewind
    step: here the network of any level and the mask of the next. What is not a live weight stays.
    """
    from sparselt.analysis import perturbed, projection_distance
    from sparselt.masks import Mask
    from sparselt.training.checkpoint import load_tensors, save_tensors

    mask, following = live_weights(task), Mask.load(task.inputs["next_mask"])
    weights = load_tensors(task.inputs["weights"])
    rewound = weights | {name: weights[name].masked_fill(~layer, 0.0) for name, layer in mask.items()}
    distance = task.spec["scale"] * projection_distance(rewound, following)
    save_tensors(perturbed(rewound, mask, distance, task.spec["seed"]), task.folder / "weights.safetensors")
    norm = math.sqrt(sum(float(rewound[name].double().square().sum()) for name in mask))
    values = [
        {"metric": "perturbation", "value": distance},
        {"metric": "relative_perturbation", "value": distance / norm if norm else math.nan},
    ]
    write_json(task.folder / "values.json", {"values": values})
    return 1
