"""Stages that make masks."""

from sparselt.runs.kinds.task import Task


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
