"""Stages that compare and combine the masks of siblings."""

import dataclasses
import functools
import operator
from pathlib import Path

from sparselt.runs.kinds.task import Task, write_json


def overlap(task: Task) -> int:
    """How much masks overlap, against global and layerwise chance, see `sparselt.analysis.overlap`."""
    from sparselt.analysis.overlap import mask_overlap
    from sparselt.masks import Mask

    masks = [Mask.load(path) for path in _numbered(task, "mask")]
    density = sum(mask.density for mask in masks) / len(masks)
    found = dataclasses.asdict(mask_overlap(masks))
    values = [{"metric": metric, "value": value, "density": density} for metric, value in found.items()]
    write_json(task.folder / "values.json", {"values": values})
    return 1


def combine(task: Task) -> int:
    """Union or intersection of siblings' masks, with as many weights as the mask `equal`; its layerwise densities.

    Where the siblings were pruned before, they wear masks: what is combined may hold only weights alive in all of them
    (intersection), or in any (union).

    Raises:
        SettingError: too few weights are alive in all siblings.
    """
    import torch

    from sparselt.errors import SettingError
    from sparselt.masks import Mask
    from sparselt.siblings import combined_mask
    from sparselt.training.checkpoint import load_tensors

    how = task.spec["how"]
    weights = [load_tensors(path) for path in _numbered(task, "weights")]
    equal = Mask.load(task.inputs["equal"])
    # What a sibling has lost is zero, and ranks last.
    dense = Mask({name: torch.ones_like(layer) for name, layer in equal.items()})
    mask, sibling_density = combined_mask(weights, equal.density, how, dense, task.spec["scope"])
    worn = [Mask.load(path) for path in _numbered(task, "worn")]
    if worn:
        alive = functools.reduce(operator.and_ if how == "intersection" else operator.or_, worn)
        if mask | alive != alive:
            raise SettingError(
                f"siblings cannot reach density {mask.density:.4g} by {how}: of {alive.density:.4g} of the weights, "
                f"alive in all {len(worn)} before their last pruning, {(mask | alive).live - alive.live} are missing "
                "in some layer; combine fewer siblings, choose a larger density, or prune them in fewer levels"
            )
    mask.save(task.folder / "mask.safetensors")
    values = [{"metric": "sibling_density", "value": sibling_density, "density": mask.density}]
    for name, density in mask.layer_densities().items():
        condition = f"{task.spec['condition']} layer={name}"
        values.append({"metric": "layer_density", "value": density, "density": mask.density, "condition": condition})
    write_json(task.folder / "values.json", {"values": values})
    return 1


def _numbered(task: Task, name: str) -> list[Path]:
    """The inputs `<name>_0`, `<name>_1`, … in this order."""
    paths = []
    while f"{name}_{len(paths)}" in task.inputs:
        paths.append(task.inputs[f"{name}_{len(paths)}"])
    return paths
