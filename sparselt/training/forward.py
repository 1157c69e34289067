"""The forward pass of a training step, spared the small kernels that the optimizer or the host can do for it.

Two kinds, with the same bits:

- Under bfloat16 autocast each weight of a convolution or linear layer is cast, and its gradient cast back. Here the
  optimizer's own pass writes bfloat16 copies and reads their gradients (`MaskedOptimizer.copy_to_bfloat16`).
- Batch norms count their batches, one kernel for each. Here the host counts, and `num_batches_tracked` is written when
  a state dict is read or loaded and when the training ends.

`reason_against` and `reason_against_copies` say where a training keeps torch's way.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparselt.optim import MaskedOptimizer
from sparselt.training.fx_graphs import called_once_and_cast, has_hooks
from sparselt.training.recipe import Recipe

_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_COUNTING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def reason_against(model: nn.Module, recipe: Recipe) -> str:
    """Why a network's forward pass stays as it is; empty if batches are counted on the host."""
    if recipe.compile:
        return "a compiled forward pass fuses such kernels itself"
    if any(map(has_hooks, model.modules())):
        return "hooks may read or write weights and buffers"
    return ""


def reason_against_copies(recipe: Recipe, optimizer: MaskedOptimizer, alone: bool) -> str:
    """Why bfloat16 copies of weights would change bits, or spare nothing; empty if the optimizer keeps them.

    alone: whether nothing but the loss of the forward pass gives gradients.
    """
    if recipe.precision != "bfloat16":
        return f"precision is {recipe.precision}"
    if recipe.micro_batches > 1:
        return "gradients of micro-batches are added in float32"
    if not alone:
        return "ranks, a penalty or a step on live weights give gradients in float32"
    if optimizer._has_hooks():
        return "hooks of the optimizer may read or write gradients"
    return ""


class BatchCounts:
    """The batches that norms have seen and that their `num_batches_tracked` has yet to count."""

    def __init__(self, norms: Sequence[nn.Module]):
        self.norms, self._pending = list(norms), 0

    def add(self, batches: int) -> None:
        self._pending += batches

    @torch.no_grad()
    def write(self, *_: object) -> None:
        """Writes them to the norms. Also serves as a hook of the norms, so a copied network has counts of its own."""
        if self._pending and self.norms:
            torch._foreach_add_([norm.get_buffer("num_batches_tracked") for norm in self.norms], self._pending)
        self._pending = 0


class TrainingForward:
    """A network's forward pass, as the steps of a training call it.

    While it runs, modules hold other weights and buffers than before and after it.

    forward: of the network, or of a graph that calls the network's own modules.
    swapped: parameters or buffers of a module, a name among them, and what it holds meanwhile.
    counted: norms whose batches the host counts. Each is called once in the forward pass.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        swapped: Sequence[tuple[dict[str, Any], str, Tensor | None]] = (),
        counted: Sequence[nn.Module] = (),
    ):
        self._forward, self._counts = forward, BatchCounts(counted)
        self._swapped = [*swapped, *((norm._buffers, "num_batches_tracked", None) for norm in counted)]
        self._hooks: list[RemovableHandle] = []

    def __call__(self, images: Tensor) -> Any:
        own = [held[name] for held, name, _ in self._swapped]
        for held, name, other in self._swapped:
            held[name] = other
        try:
            return self._forward(images)
        finally:
            for (held, name, _), tensor in zip(self._swapped, own, strict=True):
                held[name] = tensor

    def count(self, images: int, micro_batches: int) -> None:
        """Counts the batches of one step: the parts into which `Tensor.chunk` cuts the images."""
        self._counts.add(-(-images // -(-images // micro_batches)))

    def write_batch_counts(self) -> None:
        """Writes what has been counted to the norms' `num_batches_tracked`."""
        self._counts.write()

    def begin(self) -> None:
        """From now on every reading and loading of a state dict writes the counts first."""
        for norm in self._counts.norms:
            self._hooks.append(norm.register_state_dict_pre_hook(self._counts.write))
            self._hooks.append(norm.register_load_state_dict_pre_hook(self._counts.write))

    def end(self) -> None:
        """Writes the counts. The network is as it was."""
        self.write_batch_counts()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


@contextlib.contextmanager
def training_forward(
    model: nn.Module,
    forward: Callable[[Tensor], Any],
    recipe: Recipe,
    optimizer: MaskedOptimizer,
    alone: bool = True,
) -> Iterator[TrainingForward]:
    """The forward pass of one network, until the block ends; see `training_forwards`."""
    (found,) = training_forwards([model], [forward], recipe, optimizer, alone)
    try:
        yield found
    finally:
        found.end()
        optimizer.copy_to_bfloat16([])


def training_forwards(
    models: Sequence[nn.Module],
    forwards: Sequence[Callable[[Tensor], Any]],
    recipe: Recipe,
    optimizer: MaskedOptimizer,
    alone: bool = True,
) -> list[TrainingForward]:
    """The forward passes of networks in train mode.

    The loop calls `optimizer.refresh_copies` before each step and `TrainingForward.count` for it. Until the counts are
    written, `num_batches_tracked` lags behind where it is read directly, not in a state dict.

    forwards: see `loop.forward_passes`. optimizer: of all these networks. alone: see `reason_against_copies`.
    """
    bfloat16 = recipe.precision == "bfloat16"
    copying = not reason_against_copies(recipe, optimizer, alone)
    known = {p for group in optimizer.param_groups for p in group["params"]}
    counted: list[list[nn.Module]] = []
    places: list[list[tuple[dict[str, Any], str]]] = []  # of the weights with copies
    for model in models:
        once: dict[str, nn.Module] = {}
        cast: set[str] = set()
        if not reason_against(model, recipe):
            once, cast = called_once_and_cast(model, next(model.parameters()).device.type, bfloat16)
        counted.append([module for module in once.values() if _counts_on_host(module)])
        layers = [module for name, module in once.items() if copying and name in cast and type(module) in _CAST]
        places.append([(held, name) for held, name in _castable(model, layers) if held[name] in known])
    weights = [held[name] for own in places for held, name in own]
    copies = iter(optimizer.copy_to_bfloat16(weights) if weights else ())
    found = [
        TrainingForward(forward, [(held, name, next(copies)) for held, name in own], norms)
        for forward, own, norms in zip(forwards, places, counted, strict=True)
    ]
    for each in found:
        each.begin()
    return found


def _counts_on_host(module: nn.Module) -> bool:
    # Without momentum the running statistics are averages over all batches, so the norm itself needs their number.
    return (
        type(module) in _COUNTING
        and module.training
        and module.num_batches_tracked is not None
        and module.momentum is not None
    )


def _castable(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[tuple[dict[str, Any], str]]:
    """The layers' parameters that autocast casts once in a forward pass: each layer's parameters, a name among them."""
    uses = Counter(map(id, (p for _, p in model.named_parameters(remove_duplicate=False))))
    for layer in layers:
        for name, p in layer._parameters.items():
            if p is None or not p.requires_grad or p.dtype != torch.float32 or uses[id(p)] != 1:
                continue
            if not p._backward_hooks and not p._post_accumulate_grad_hooks:
                yield layer._parameters, name
