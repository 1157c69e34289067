"""Makes and evaluates the networks on lines and planes between trained networks, many at a time."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.analysis.batch_norm import (
    ENDS,
    Buffers,
    check_buffers,
    forget_statistics_,
    reestimate_together_,
    sees_batch,
)
from sparselt.analysis.side_by_side import SideBySide, evaluate_together
from sparselt.errors import SettingError
from sparselt.kernels import interpolate
from sparselt.kernels.interpolate import gram_matrix
from sparselt.training.folding import Folded
from sparselt.training.loop import autocast
from sparselt.weights import check_weights, prunable_parameters

CHUNK_BYTES = 5 << 27  # of weight sets made at a time: half a path of 11 points through ResNet-50

_FLOATING = (torch.float32, torch.bfloat16, torch.float64)

State = Mapping[str, Tensor]
Prunable = Iterable[str] | Iterable[tuple[str, Tensor]] | None
"""Names of parameters, or pairs that begin with one; None: those of `sparselt.prunable_parameters`."""


@dataclass(frozen=True)
class Conditions:
    """How to make and evaluate networks between others: arguments of `evaluate_path`."""

    prunable: Prunable = None
    buffers: Buffers = "interpolate"
    training_batches: Iterable | None = None
    precision: str = "float32"
    folded: bool = True
    on_point: Callable[[int], None] = lambda done: None


def evaluate_between(
    model: nn.Module,
    spans: Sequence[tuple[Sequence[State], Tensor]],
    batches: Iterable,
    how: Conditions,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Errors and losses of all networks, in order.

    Args:
        model: a network of the architecture, left as it is.
        spans: for each line or plane the state dicts of its two or three ends, and the coefficients of the networks to
            make, [K] or [K, 2].
        batches: read once for as many networks as `CHUNK_BYTES` hold.
    """
    expected = model.state_dict()
    for ends, coefficients in spans:
        check_buffers(how.buffers, len(ends), how.training_batches)
        for which, end in zip(ENDS, ends, strict=False):
            check_state(f"the {which} network", end, expected, spans[0][0][0])
        if not coefficients.isfinite().all():
            found = coefficients[~coefficients.isfinite()][0].item()
            raise SettingError(f"a position is {found}, which is not finite; expected numbers such as 0.5")
    autocast(torch.device("cpu"), how.precision)
    extrapolating = _by_name(model, how.prunable)
    workspace = copy.deepcopy(model).eval()
    folding = Folded(model) if how.folded and how.buffers != "per_batch" else None
    if how.buffers == "per_batch":
        forget_statistics_(workspace)
    samples_apart = how.buffers != "per_batch" and not sees_batch(model)
    errors: list[float] = []
    losses: list[float] = []

    def on_evaluated(done: int, count: int) -> None:
        if count:
            how.on_point(len(errors) + done * len(networks) // count)

    parameters = {name for name, _ in model.named_parameters()}
    for rows in _rows(spans, expected, extrapolating, parameters, how.buffers):
        if how.buffers == "reestimate" and how.training_batches is not None:
            reestimate_together_(workspace, rows, how.training_batches, how.precision)
        networks = SideBySide(workspace, rows) if folding is None else SideBySide(folding.module, folding.fold_(rows))
        some_errors, some_losses = evaluate_together(
            networks,
            batches,
            how.precision,
            in_pieces=samples_apart and (how.folded or how.precision != "float32"),
            on_evaluated=on_evaluated,
        )
        errors += some_errors
        losses += some_losses
        how.on_point(len(errors))
    return tuple(errors), tuple(losses)


def _rows(
    spans: Sequence[tuple[Sequence[State], Tensor]],
    like: State,
    prunable: Mapping[str, bool],
    parameters: Collection[str],
    buffers: Buffers,
) -> Iterator[dict[str, Tensor]]:
    """Yields the networks' states in chunks that fit `CHUNK_BYTES`: each tensor [K, ...]. The next chunk overwrites it.

    like: the model's state, whose memory layout they get. prunable: see `_by_name`. parameters: the names of the
    tensors that distances are taken over, each parameter once.
    """
    laid_out: dict[int, State] = {}
    first = spans[0][0][0]
    for ends, _ in spans:
        for end in ends:
            if id(end) not in laid_out:
                laid_out[id(end)] = {name: _like(tensor, like[name]) for name, tensor in end.items()}
    moving = [
        name
        for name, tensor in first.items()
        if tensor.is_floating_point() and (name in prunable or buffers not in ENDS)
    ]
    weights = [name for name in moving if name in parameters]
    most = max(1, CHUNK_BYTES // max(1, sum(tensor.nbytes for tensor in first.values())))
    # One memory for all chunks, because first writes to new memory take longer than everything else.
    memory: dict[str, Tensor] = {}
    for chunk in _chunks(spans, most):
        count = sum(len(some) for _, some in chunk)
        if not memory:
            memory = {name: _empty(count, tensor) for name, tensor in laid_out[id(chunk[0][0][0])].items()}
        rows = {name: tensor[:count] for name, tensor in memory.items()}
        start = 0
        for ends, some in chunk:
            place = slice(start, start + len(some))
            start = place.stop
            # Points outside are projected by the distance between weights, whatever the choice of buffers.
            gram = gram_matrix([[end[name] for name in weights] for end in ends]) if len(ends) == 3 else None
            owner = laid_out[id(ends[ENDS.index(buffers) if buffers in ENDS else 0])]
            for name in owner.keys() - set(moving):
                rows[name][place] = owner[name]
            for dtype in {first[name].dtype for name in moving}:
                names = [name for name in moving if first[name].dtype == dtype]
                interpolate(
                    [[laid_out[id(end)][name] for name in names] for end in ends],
                    some.to(first[names[0]].device),
                    prunable=[prunable.get(name, False) for name in names],
                    gram=gram,
                    out=[rows[name][place] for name in names],
                )
        yield {name: tensor.to(like[name].device, like[name].dtype) for name, tensor in rows.items()}


def _chunks(spans, most: int) -> Iterator[list[tuple[Sequence[State], Tensor]]]:
    """The spans in chunks of about equally many points, at most `most`. Long spans are cut."""
    total = sum(len(coefficients) for _, coefficients in spans)
    most = -(-total // max(1, -(-total // most)))
    chunk, room = [], most
    for ends, coefficients in spans:
        while len(coefficients):
            chunk.append((ends, coefficients[:room]))
            coefficients, room = coefficients[room:], room - len(chunk[-1][1])
            if not room:
                yield chunk
                chunk, room = [], most
    if chunk:
        yield chunk


def _like(tensor: Tensor, model: Tensor) -> Tensor:
    if tensor.stride() == model.stride():
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _empty(count: int, tensor: Tensor) -> Tensor:
    strides = (tensor.numel(), *tensor.stride())
    return torch.empty_strided((count, *tensor.shape), strides, dtype=tensor.dtype, device=tensor.device)


def _by_name(model: nn.Module, prunable: Prunable) -> dict[str, bool]:
    """Whether each parameter extrapolates, for each of its names in a state dict."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if isinstance(prunable, str):
        raise SettingError(f"prunable is {prunable!r}; expected names in a list or set")
    chosen = set()
    for item in prunable_parameters(model) if prunable is None else prunable:
        name = item[0] if isinstance(item, tuple) and len(item) == 2 else item
        if not isinstance(name, str):
            raise SettingError(f"prunable holds a {type(name).__name__}; expected names of parameters")
        if name not in parameters:
            raise SettingError(
                f"prunable name {name!r} is not a parameter of the network; see model.named_parameters()"
            )
        chosen.add(id(parameters[name]))
    return {name: id(parameter) in chosen for name, parameter in parameters.items()}


def check_state(which: str, state: State, expected: State, first: State) -> None:
    """Raises a SettingError about `which` network unless its state fits the model's and the first network's."""
    check_weights(state, f"the weights of {which}")
    odd = sorted(expected.keys() ^ state.keys())
    if odd:
        found = f"lacks {odd[0]!r}" if odd[0] in expected else f"has {odd[0]!r}, which the model lacks"
        raise SettingError(f"{which} {found}; give state dicts of the model's architecture")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise SettingError(
                f"{name!r} of {which} has shape {tuple(tensor.shape)}, of the model {tuple(expected[name].shape)}; "
                "give state dicts of the model's architecture"
            )
        if (tensor.dtype, tensor.device) != (first[name].dtype, first[name].device):
            raise SettingError(
                f"{name!r} of {which} is {tensor.dtype} on {tensor.device}, of the first {first[name].dtype} on "
                f"{first[name].device}; convert one of them"
            )
        if tensor.is_floating_point() and tensor.dtype not in _FLOATING:
            raise SettingError(f"{name!r} of {which} is {tensor.dtype}; expected float32 or bfloat16")
