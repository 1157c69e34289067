"""Which networks, loaders and starts can share a cohort (`sparselt.training.cohort`)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparselt.data import ResidentTrainLoader
from sparselt.data.batch import drawn
from sparselt.errors import SettingError
from sparselt.training.loop import gradients
from sparselt.training.recipe import Recipe

_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_DRAWING_IF_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
_DRAWING_NAMES = ("StochasticDepth", "DropBlock2d", "DropBlock3d")  # by name, to spare the import of torchvision


def reason_against(recipe: Recipe, model: nn.Module) -> str:
    """Why networks of this recipe cannot share a cohort and need `loop.train`; empty if they can.

    Recognizes modules of torch and torchvision that draw random numbers. Draws by functions in a forward pass, or by
    modules of other libraries, go unnoticed.
    """
    if recipe.techniques.progressive_resizing:
        return "progressive resizing changes the shape of the step"
    if recipe.techniques.ema_half_life:
        return "a weight average is kept by the host"
    if recipe.sparse_up_to:
        return "a step on live weights alone is made for one mask"
    for module in model.modules():
        if _draws(module):
            return f"its {type(module).__name__} draws from one generator for all networks"
    return ""


def reason_against_loader(loader: object, recipe: Recipe) -> str:
    """Why a cohort of this recipe cannot read its batches from this loader; empty if it can."""
    if not isinstance(loader, ResidentTrainLoader):
        return f"the loader is a {type(loader).__name__}; expected a ResidentTrainLoader, whose images the device holds"
    if loader.batch_size != recipe.batch_size:
        return f"the loader gives batches of {loader.batch_size}; the recipe says {recipe.batch_size}"
    if loader.shard.world_size > 1:
        return "the loader reads one rank's share of each batch, and a cohort trains in one process"
    return ""


def check_networks(models: Sequence[nn.Module], recipe: Recipe) -> None:
    """Raises SettingError unless there is at least one network, and all share an architecture a cohort can train."""
    if not models:
        raise SettingError("a cohort of no network: give one or more")
    for k, model in enumerate(models):
        if against := reason_against(recipe, model):
            raise SettingError(f"a cohort cannot train {recipe.model}: {against}")
        if unlike := difference_in_shapes(model.state_dict(), models[0].state_dict()):
            raise SettingError(f"network {k} is of another architecture than network 0: it {unlike}")


class DifferentBits(SettingError):
    """Compiled networks of one cohort do not compute the same bits from the same weights."""


def check_same_bits(
    models: Sequence[nn.Module],
    forwards: Sequence[Callable[[Tensor], Tensor]],
    loader: ResidentTrainLoader,
    recipe: Recipe,
) -> None:
    """Checks that each network computes what the first one does from the first one's weights: the loss, gradients and
    buffers of one batch. A compiled forward pass could be compiled anew for a network, and to other arithmetic.

    Changes the networks' weights and buffers, and sets their gradients to None.

    Raises:
        DifferentBits: they differ.
    """
    indices = torch.arange(recipe.batch_size, device=loader.device)
    images = drawn(loader._images, indices, loader.transform, seed=0, epoch=0)
    labels = loader._labels.index_select(0, indices)
    start = {name: tensor.clone() for name, tensor in models[0].state_dict().items()}
    expected: list[Tensor] = []
    for k, (model, forward) in enumerate(zip(models, forwards, strict=True)):
        model.train().load_state_dict(start)
        model.zero_grad()
        loss = gradients(forward, images, labels, recipe)
        slopes = [p.grad for p in model.parameters() if p.grad is not None]
        found = [loss, *slopes, *(buffer.clone() for buffer in model.buffers())]
        model.zero_grad()
        expected = expected or found
        if not all(map(torch.equal, found, expected)):
            raise DifferentBits(
                f"network {k} of {recipe.model}, compiled, rounds differently from network 0, so it would not get in a "
                "cohort what it gets alone; train with --cohort 1, or --set compile=false"
            )


def difference_in_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first difference in names or shapes, as a predicate about `found`; empty if there is none."""
    for name, tensor in expected.items():
        if name not in found:
            return f"lacks {name!r}"
        if found[name].shape != tensor.shape:
            return f"does not fit: {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
    for name in found:
        if name not in expected:
            return f"has {name!r}, which is not expected"
    return ""


def _draws(module: nn.Module) -> bool:
    return (
        isinstance(module, _DRAWING)
        or (isinstance(module, _DRAWING_IF_DROPOUT) and module.dropout > 0)
        or type(module).__name__ in _DRAWING_NAMES
    )
