"""Stages that make masks, or a checkpoint after one."""

from typing import TYPE_CHECKING, Any

from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    from sparselt.masks import Mask


def prune(task: Task) -> int:
    """The next level's mask, from a trained network's weights and its mask; which layers it leaves empty.

    With the input `equal`, a mask: as many weights are left as in that one. `values.json` names the empty layers.

    Raises:
        SettingError: no weight would be left.
    """
    from sparselt.masks import Mask
    from sparselt.pruning import magnitude_prune
    from sparselt.training.checkpoint import load_tensors

    spec, mask = task.spec, live_weights(task)
    fraction = 1 - Mask.load(task.inputs["equal"]).live / mask.live if "equal" in task.inputs else spec["fraction"]
    pruned = magnitude_prune(load_tensors(task.inputs["weights"]), mask, fraction, spec["scope"])
    empty = empty_values(pruned)
    pruned.save(task.folder / "mask.safetensors")
    write_json(task.folder / "values.json", {"values": empty})
    return 1


def live_weights(task: Task) -> "Mask":
    """The mask among the inputs; all weights of the spec's network if there is none."""
    import torch

    from sparselt.masks import Mask
    from sparselt.models import prunable_shapes

    if "mask" in task.inputs:
        return Mask.load(task.inputs["mask"])
    shapes = prunable_shapes(task.spec["model"], task.spec["classes"], task.spec["channels"])
    return Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})


def empty_values(mask: "Mask") -> list[dict[str, Any]]:
    """A value for each layer that pruning left without a weight.

    Raises:
        SettingError: all of them are, and nothing is left to train.
    """
    from sparselt.errors import SettingError
    from sparselt.pruning import empty_layers

    if not mask.live:
        raise SettingError(f"pruning left none of {mask.size:,} weights; prune fewer times, or a smaller fraction")
    return [
        {"metric": "empty_layer", "value": 1.0, "density": mask.density, "condition": f"layer={name}"}
        for name in empty_layers(mask)
    ]


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
