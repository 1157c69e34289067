"""The batch-norm statistics of networks between trained ones. There are several choices; every result names its own."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparselt.analysis.side_by_side import SideBySide
from sparselt.errors import SettingError
from sparselt.training.loop import autocast

Buffers = Literal["interpolate", "first", "second", "third", "reestimate", "per_batch"]
"""interpolate: interpolated like weights, as the authors' code of Paul et al. 2022 does; integers are the first
network's. first, second, third: all buffers are that end's. reestimate: the mean of the statistics of training batches
under the network's own weights. per_batch: the statistics of each evaluation batch, so that error and loss depend on
the batch size and on which samples share a batch. With the last two, all buffers but those of batch norm are
interpolated, running statistics of instance norm among them."""

ENDS = ("first", "second", "third")


def check_buffers(buffers: str, ends: int, training_batches: Iterable | None) -> None:
    """Raises a SettingError unless `buffers` is a choice for networks between this number of ends."""
    choices = [choice for choice in get_args(Buffers) if choice not in ENDS[ends:]]
    if buffers not in choices:
        raise SettingError(f"buffers is {buffers!r}; expected one of {', '.join(map(repr, choices))}")
    if buffers == "reestimate" and training_batches is None:
        raise SettingError("buffers='reestimate' needs training_batches, the batches whose statistics are taken")


def forget_statistics_(model: nn.Module) -> None:
    """Removes the statistics of all batch norms, so that in eval mode each normalizes with those of its batch."""
    for layer in _layers(model):
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def sees_batch(model: nn.Module) -> bool:
    """Whether some batch norm has no running statistics, and normalizes with its batch's even in eval mode."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())


@torch.no_grad()
def reestimate_statistics_(model: nn.Module, batches: Iterable, precision: str = "float32") -> None:
    """Sets the statistics of every batch-norm layer to their mean over `batches`, with the weights as they are.

    Every batch counts alike, whatever its size. Only batch-norm layers are in training mode meanwhile, so there is no
    dropout. A network without batch norm stays as it is.

    Raises:
        SettingError: no batch at all.
    """
    rows = {name: tensor[None] for name, tensor in model.state_dict().items()}
    reestimate_together_(model, rows, batches, precision)


@torch.no_grad()
def reestimate_together_(model: nn.Module, rows: Mapping[str, Tensor], batches: Iterable, precision: str) -> None:
    """`reestimate_statistics_` for K networks with the states `rows` ([K, ...] each), in one pass over the batches.

    model: a network of the architecture, used as workspace.
    """
    layers = _layers(model)
    if not layers:
        return
    for name, module in model.named_modules():
        if module in layers:
            prefix = f"{name}." if name else ""
            rows[f"{prefix}running_mean"].zero_()
            rows[f"{prefix}running_var"].fill_(1)
            rows[f"{prefix}num_batches_tracked"].zero_()
    networks = SideBySide(model, rows)
    modes, momenta = {module: module.training for module in model.modules()}, [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
    count, calls = 0, Counter[tuple[int, _BatchNorm]]()
    k = 0

    def weigh(layer: _BatchNorm, inputs: object) -> None:
        """Makes torch take the mean over all calls. A momentum of None would, too, but wait for the GPU each time."""
        calls[k, layer] += 1
        layer.momentum = 1.0 / calls[k, layer]

    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers]
    try:
        for count, (images, *_) in enumerate(batches, 1):  # noqa: B007
            with autocast(images.device, precision):
                for k in range(len(networks)):
                    networks[k](images)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not count:
        raise SettingError("there is no batch to take batch-norm statistics of; give batches that can be read again")


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
