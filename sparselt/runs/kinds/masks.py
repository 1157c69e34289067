"""Stages that make masks, or a checkpoint after one."""

from sparselt.runs.kinds.task import Task, write_json


def prune(task: Task) -> int:
    """The next level's mask, from a trained network's weights and its mask; which layers it leaves empty.

    With the input `equal`, a mask: as many weights are left as in that one. `values.json` names the empty layers.
    """
    import torch

    from sparselt.masks import Mask
    from sparselt.models import MODELS
    from sparselt.pruning import empty_layers, magnitude_prune
    from sparselt.training.checkpoint import load_tensors

    spec = task.spec
    if "mask" in task.inputs:
        mask = Mask.load(task.inputs["mask"])
    else:
        with torch.device("meta"):
            shapes = Mask.ones_like(MODELS[spec["model"]](spec["classes"], spec["channels"]))
        mask = Mask({name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in shapes.items()})
    fraction = 1 - Mask.load(task.inputs["equal"]).live / mask.live if "equal" in task.inputs else spec["fraction"]
    pruned = magnitude_prune(load_tensors(task.inputs["weights"]), mask, fraction, spec["scope"])
    pruned.save(task.folder / "mask.safetensors")
    values = [
        {"metric": "empty_layer", "value": 1.0, "density": pruned.density, "condition": f"layer={name}"}
        for name in empty_layers(pruned)
    ]
    write_json(task.folder / "values.json", {"values": values})
    return 1


def random_mask(task: Task) -> int:
    """A random mask with the layerwise densities of another."""
    from sparselt.masks import Mask

    Mask.random_like(Mask.load(task.inputs["mask"]), task.spec["seed"]).save(task.folder / "mask.safetensors")
    return 1


def shuffle(task: Task) -> int:
    """A checkpoint whose masked layers have their live weights permuted among the live positions.

    The permutation of a layer depends on the seed and the layer's name only; everything else stays as it is.
    """
    import torch

    from sparselt.masks import Mask
    from sparselt.training.checkpoint import load_tensors, save_tensors
    from sparselt.training.recipe import derive_seed

    weights = load_tensors(task.inputs["weights"])
    mask = Mask.load(task.inputs["mask"])
    mask.check_fits(weights)
    for name, layer in mask.items():
        generator = torch.Generator().manual_seed(derive_seed(task.spec["seed"], name))
        live = weights[name][layer]
        weights[name][layer] = live[torch.randperm(len(live), generator=generator)]
    save_tensors(weights, task.folder / "weights.safetensors")
    return 1
