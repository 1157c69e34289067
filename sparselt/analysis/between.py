"""The networks on a line or a plane through trained ones: their weights, and what becomes of their buffers."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.kernels import interpolate
from sparselt.kernels.interpolate import gram_matrix
from sparselt.pruning import prunable_parameters
from sparselt.training.loop import autocast, evaluate

Buffers = Literal["interpolate", "first", "second", "third", "reestimate"]

CHUNK_BYTES = 1 << 28  # of weight sets made at a time: two of ResNet-50's, a whole path of ResNet-20's

_FLOATING = (torch.float32, torch.bfloat16, torch.float64)
_ENDS = ("first", "second", "third")


def evaluate_between(
    model: nn.Module,
    ends: Sequence[Mapping[str, Tensor]],
    coefficients: Tensor,
    batches: Iterable,
    *,
    prunable: Collection[str] | None,
    buffers: Buffers,
    training_batches: Iterable | None,
    precision: str,
    on_point,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Errors and losses at each coefficient; the arguments are those of `evaluate_path` and `evaluate_plane`."""
    check_buffers(buffers, len(ends), training_batches)
    _check_ends(model.state_dict(), ends)
    extrapolating = _by_name(model, prunable)
    errors, losses = [], []
    for done, state in enumerate(_states(ends, coefficients, extrapolating, buffers)):
        on_point(done)
        model.load_state_dict(state)
        if buffers == "reestimate":
            reestimate_statistics_(model, training_batches, precision)
        error, loss = evaluate(model, batches, precision)
        errors.append(error)
        losses.append(loss)
    return tuple(errors), tuple(losses)


def check_buffers(buffers: str, ends: int, training_batches: Iterable | None) -> None:
    """Raises a SettingError unless `buffers` is a choice that networks between so many ends have."""
    choices = [choice for choice in get_args(Buffers) if choice not in _ENDS[ends:]]
    if buffers not in choices:
        raise SettingError(f"buffers is {buffers!r}; expected one of {', '.join(map(repr, choices))}")
    if buffers == "reestimate" and training_batches is None:
        raise SettingError("buffers='reestimate' needs training_batches, the batches whose statistics are taken")


@torch.no_grad()
def reestimate_statistics_(model: nn.Module, batches: Iterable, precision: str = "float32") -> None:
    """Sets the statistics of every batch-norm layer to the mean of those of `batches`, with the weights as they are.

    Every batch counts alike, whatever its size. Only batch-norm layers are in training mode meanwhile: nothing is
    dropped out. A network without such layers stays as it is.

    Raises:
        SettingError: no batch at all.
    """
    kind = nn.modules.batchnorm._BatchNorm
    layers = [module for module in model.modules() if isinstance(module, kind) and module.running_mean is not None]
    if not layers:
        return
    modes, momenta = {module: module.training for module in model.modules()}, [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch then takes the mean over all batches
        layer.train()
    count = 0
    try:
        for count, (images, *_) in enumerate(batches, 1):  # noqa: B007
            with autocast(images.device, precision):
                model(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not count:
        raise SettingError("there is no batch to take batch-norm statistics of; give batches that can be read again")


def _states(
    ends: Sequence[Mapping[str, Tensor]],
    coefficients: Tensor,
    prunable: Mapping[str, bool],
    buffers: Buffers,
) -> Iterator[dict[str, Tensor]]:
    """The state of each network, valid until the next is asked for. prunable: what `_by_name` says."""
    owner = ends[_ENDS.index(buffers)] if buffers in _ENDS else ends[0]
    moving = [
        name
        for name, tensor in ends[0].items()
        if tensor.is_floating_point() and (name in prunable or buffers == "interpolate")
    ]
    if not moving:
        yield from (dict(owner) for _ in coefficients)
        return
    # The distance in which outside points are projected is that of the weights, whatever becomes of the buffers.
    weights = [[end[name] for name in moving if name in prunable] for end in ends]
    gram = gram_matrix(weights) if len(ends) == 3 else None
    coefficients = coefficients.to(ends[0][moving[0]].device)
    size = sum(ends[0][name].nbytes for name in moving)
    # One memory for all chunks: the first writing to fresh memory takes longer than all else.
    rows: dict[str, Tensor] = {}
    for some in coefficients.split(max(1, CHUNK_BYTES // max(1, size))):
        for dtype in {ends[0][name].dtype for name in moving}:
            names = [name for name in moving if ends[0][name].dtype == dtype]
            found = interpolate(
                [[end[name] for name in names] for end in ends],
                some,
                prunable=[prunable.get(name, False) for name in names],
                gram=gram,
                out=[rows[name][: len(some)] for name in names] if rows.keys() >= set(names) else None,
            )
            rows.update(zip(names, found, strict=True))
        for k in range(len(some)):
            yield {**owner, **{name: rows[name][k] for name in moving}}


def _by_name(model: nn.Module, prunable: Collection[str] | None) -> dict[str, bool]:
    """Whether each parameter extrapolates, under every name that it has in a state dict."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in prunable or ():
        if name not in parameters:
            raise SettingError(f"prunable name {name!r} is no parameter of the network; see model.named_parameters()")
    if prunable is None:
        chosen = {id(parameter) for _, parameter in prunable_parameters(model)}
    else:
        chosen = {id(parameters[name]) for name in prunable}
    return {name: id(parameter) in chosen for name, parameter in parameters.items()}


def _check_ends(expected: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]]) -> None:
    for which, end in zip(_ENDS, ends, strict=False):
        odd = sorted(expected.keys() ^ end.keys())
        if odd:
            where = "lacks" if odd[0] in expected else "has, and the model has not,"
            raise SettingError(f"the {which} network {where} {odd[0]!r}; give state dicts of the model's architecture")
        for name, tensor in end.items():
            if tensor.shape != expected[name].shape:
                raise SettingError(
                    f"{name!r} of the {which} network has shape {tuple(tensor.shape)}, of the model "
                    f"{tuple(expected[name].shape)}; give state dicts of the model's architecture"
                )
            if (tensor.dtype, tensor.device) != (ends[0][name].dtype, ends[0][name].device):
                raise SettingError(
                    f"{name!r} of the {which} network is {tensor.dtype} on {tensor.device}, of the first "
                    f"{ends[0][name].dtype} on {ends[0][name].device}; convert one of them"
                )
            if tensor.is_floating_point() and tensor.dtype not in _FLOATING:
                raise SettingError(f"{name!r} of the {which} network is {tensor.dtype}; expected float32 or bfloat16")
