"""Training steps that compute live weights alone: which trainings take them, and the step itself."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.training.recipe import Recipe, Techniques

if TYPE_CHECKING:
    from torch import Tensor, nn


def reason_against(techniques: Techniques, micro_batches: int, ranks: int, compile: bool) -> str:
    """Why trainings of such a recipe cannot compute live weights alone, whatever the network; empty if they can."""
    if techniques.bce or techniques.progressive_resizing:
        return "a step on live weights alone has cross-entropy and one image size, and these techniques others"
    if micro_batches > 1:
        return f"a step on live weights alone takes the whole batch, and micro_batches is {micro_batches}"
    if ranks > 1:
        return f"a step on live weights alone runs in one process, and ranks is {ranks}"
    if compile:
        return "a step on live weights alone is not compiled, and compile is true"
    return ""


def live_step(
    model: "nn.Module", mask: "Mapping[str, Tensor] | None", recipe: Recipe
) -> "Callable[[Tensor, Tensor], Tensor] | None":
    """The step that sets all gradients from images and labels and returns the loss (nats), on live weights alone.

    None if the mask is denser than the recipe's `sparse_up_to`. The mask alone decides, not a measurement, so that two
    runs train alike. model: on the CPU, in train mode, with its parameters in the memory that the optimizer works on.

    Raises:
        SettingError: the recipe or the network cannot be trained so, or the network is on a GPU.
    """
    density = 1.0 if mask is None else density_of(mask)
    if not recipe.sparse_up_to or density > recipe.sparse_up_to:
        return None
    if against := reason_against(recipe.techniques, recipe.micro_batches, recipe.ranks, recipe.compile):
        raise SettingError(f"sparse_up_to is {recipe.sparse_up_to:g}, but {against}; give 0")
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise SettingError(f"sparse_up_to is {recipe.sparse_up_to:g}, but the network is on {device}; give 0")
    return _LiveStep(model, mask or {}, recipe)


def density_of(mask: "Mapping[str, Tensor]") -> float:
    """Live weights over all weights under a mask of bool tensors; 1 for an empty one."""
    total = sum(tensor.numel() for tensor in mask.values())
    return sum(int(tensor.sum()) for tensor in mask.values()) / total if total else 1.0


class _LiveStep:
    """A `SparseStep` that is made when the first batch tells the shape of the images."""

    def __init__(self, model: "nn.Module", mask: "Mapping[str, Tensor]", recipe: Recipe):
        self._model, self._mask, self._recipe = model, mask, recipe
        self._compute: Callable[..., Tensor] | None = None

    def __call__(self, images: "Tensor", labels: "Tensor") -> "Tensor":
        if self._compute is None:
            import torch

            from sparselt.models.sparse_step import SparseStep

            of_model = next(self._model.parameters()).dtype
            dtype = torch.bfloat16 if self._recipe.precision == "bfloat16" else of_model
            self._compute = SparseStep(self._model, self._mask, tuple(images.shape), dtype)
        return self._compute(images, labels, self._recipe.techniques.label_smoothing)
