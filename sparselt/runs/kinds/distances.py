"""Stages that compare the weights of trained networks, and look at how they are distributed; none reads data."""

import dataclasses

from sparselt.runs.kinds.task import Task, write_json


def measure_distances(task: Task) -> int:
    """L2 distance and angle (degrees) between two networks over the live weights of a mask (Frankle et al. 2019)."""
    from sparselt.analysis.distances import angle, l2_distance
    from sparselt.masks import Mask
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    mask = Mask.load(task.inputs["mask"])
    first, second = (load_tensors(task.inputs[name]) for name in ("first", "second"))
    with cpu_threads(task.spec["threads"]):
        found = {"l2_distance": l2_distance(first, second, mask), "angle": angle(first, second, mask)}
    _write_values(task, [{"metric": name, "value": value, "density": mask.density} for name, value in found.items()])
    return 1


def measure_angular_distances(task: Task) -> int:
    """Angular distance of all pairs of rounds, and of each to the initialization, on shared weights (Maene et al.).

    Inputs `weights_0` (dense), `weights_1` and `mask_1`, `weights_2` and `mask_2`, …, and `initialization`. A pair
    stands once, with `level` below `to_level`.
    """
    from sparselt.analysis.distances import angular_distance_matrix
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    masks = _masks(task)
    with cpu_threads(task.spec["threads"]):
        states = [load_tensors(task.inputs[f"weights_{level}"]) for level in range(len(masks))]
        matrix = angular_distance_matrix(states, masks, load_tensors(task.inputs["initialization"])).tolist()
    values = []
    for level, mask in enumerate(masks):
        place = {"level": level, "density": mask.density}
        values.append({"metric": "angular_distance_to_initialization", "value": matrix[level][-1], **place})
        for other in range(level + 1, len(masks)):
            values.append({"metric": "angular_distance", "value": matrix[level][other], "to_level": other, **place})
    _write_values(task, values)
    return len(values)


def measure_histograms(task: Task) -> int:
    """How each round's live weights are distributed, and where the next pruning cuts (Maene et al. 2021).

    Inputs as of `measure_angular_distances`, without the initialization. Counts are given for the levels in the spec's
    `drawn`, each with the middle of its bin as position; a share of the live weights, not a number of them.
    """
    from sparselt.analysis.histograms import weight_histogram
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    masks, spec = _masks(task), task.spec
    values = []
    for level, mask in enumerate(masks):
        with cpu_threads(spec["threads"]):
            found = weight_histogram(
                load_tensors(task.inputs[f"weights_{level}"]), mask, bins=spec["bins"], fraction=spec["fraction"]
            )
        place = {"level": level, "density": mask.density}
        for metric in ("threshold", "threshold_ratio", "bimodality"):
            values.append({"metric": metric, "value": dataclasses.asdict(found)[metric], **place})
        if level in spec["drawn"]:
            for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
                share = count / mask.live
                values.append({"metric": "weight_share", "value": share, "position": (low + high) / 2, **place})
    _write_values(task, values)
    return len(masks)


def _masks(task: Task) -> list:
    """The mask of every round; that of the dense network, which has none, is full."""
    import torch

    from sparselt.masks import Mask

    masks = []
    while f"mask_{len(masks) + 1}" in task.inputs:
        masks.append(Mask.load(task.inputs[f"mask_{len(masks) + 1}"]))
    full = Mask({name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in masks[0].items()})
    return [full, *masks]


def _write_values(task: Task, values: list) -> None:
    write_json(task.folder / "values.json", {"values": values})
