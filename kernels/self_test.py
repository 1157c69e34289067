"""Compares every operation with its reference in float64, on small tensors: do the kernels work on this machine?"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import augment, interpolate, magnitude_mask, masked_adam, masked_rmsprop, masked_sgd
from ._optimizer import Operation
from ._optimizer.layout import pack_mask, padded_offsets
from .augment.reference import augment as augment_reference
from .conv_bn import conv_bn
from .conv_bn.reference import conv_bn as conv_bn_reference
from .interpolate.reference import interpolate as interpolate_reference
from .magnitude.reference import keep, threshold
from .masked_adam.reference import masked_adam as adam_reference
from .masked_rmsprop.reference import masked_rmsprop as rmsprop_reference
from .masked_sgd.reference import masked_sgd as sgd_reference
from .norm_act import norm_act
from .norm_act.reference import norm_act as norm_act_reference

_SHAPES = ((7, 3, 3, 3), (5,), (123, 41))
_TOLERANCE = 2e-5
Test = Callable[[torch.device], None]
Reference = Callable[[Tensor, Tensor, list[Tensor], Tensor, int], tuple[Tensor, list[Tensor]]]


class Result(NamedTuple):
    """The error of one operation, empty if it agrees with its reference, and its seconds with compilation."""

    name: str
    error: str
    seconds: float


def self_test(device: str = "cpu") -> Iterator[Result]:
    """Tests every operation, one after the other, on `device` (`cpu` or `cuda`). Raises nothing: errors are results."""
    for name, test in TESTS.items():
        began, error = time.perf_counter(), ""
        try:
            test(torch.device(device))
        except Exception as failed:  # whatever a compiler or a driver raises
            error = f"{type(failed).__name__}: {failed}".strip().partition("\n")[0]
        yield Result(name, error, time.perf_counter() - began)


def _tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in _SHAPES]


def _masks() -> list[Tensor]:
    return [tensor > 0 for tensor in _tensors(9)]


def _agree(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.cpu().double(), expected.double(), rtol=_TOLERANCE, atol=_TOLERANCE)


def _optimizer(operation: Operation, row: Sequence[float], reference: Reference) -> Test:
    """A test of two steps of an optimizer. reference: takes weight, gradient, state (a list), live weights and the
    step.
    """

    def test(device: torch.device) -> None:
        weights, masks = [t.to(device) for t in _tensors(0)], _masks()
        offsets, length = padded_offsets([w.numel() for w in weights])
        live = torch.ones(length, dtype=torch.bool)
        for offset, each in zip(offsets, masks, strict=True):
            live[offset : offset + each.numel()] = each.flatten()
        mask = pack_mask(live.to(device))
        state = torch.zeros(operation.buffers, length, device=device)
        steps = torch.zeros(len(live) // masked_sgd.PAD, dtype=torch.int32, device=device)
        rows = torch.tensor([row], dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        expected = [(w.cpu().double(), [torch.zeros_like(w.cpu()).double()] * operation.buffers) for w in weights]
        for step in (1, 2):
            gradients = _tensors(step)
            given = [g.to(device) for g in gradients]
            operation(weights, given, state, mask, rows, offsets=offsets, steps=steps, first_step=step == 1)
            expected = [
                reference(weight, gradient.double(), buffers, each, step)
                for (weight, buffers), gradient, each in zip(expected, gradients, masks, strict=True)
            ]
        for weight, offset, (answer, buffers) in zip(weights, offsets, expected, strict=True):
            _agree(weight, answer)
            for row_of_state, buffer in zip(state, buffers, strict=True):
                _agree(row_of_state[offset : offset + weight.numel()].view(weight.shape), buffer)

    return test


def _sgd() -> Test:
    row = masked_sgd.Columns(lr=0.1, momentum=0.9, keep=0.9, weight_decay=0.01, shrink=1.0, sign=1.0, nesterov=1.0)

    def reference(weight, gradient, state, live, step):
        weight, buffer = sgd_reference(weight, gradient, None if step == 1 else state[0], live, row)
        return weight, [buffer]

    return _optimizer(masked_sgd.operation, row, reference)


def _adam(operation: Operation, amsgrad: float) -> Test:
    averages = {"keep1": 1 - 0.9, "log1": math.log(0.9), "beta2": 0.99, "keep2": 1 - 0.99, "log2": math.log(0.99)}
    row = masked_adam.Columns(**averages, lr=0.1, eps=1e-3, weight_decay=0.01, shrink=0.99, amsgrad=amsgrad, sign=1.0)
    return _optimizer(operation, row, lambda w, g, state, live, step: adam_reference(w, g, state, live, row, step))


def _rmsprop(centered: bool, momentum: bool) -> Test:
    row = masked_rmsprop.Columns(0.1, 0.9, 1 - 0.9, 1e-3, 0.01, 0.8 * momentum, float(centered), 1.0)
    operation = masked_rmsprop.OPERATIONS[centered, momentum]
    return _optimizer(operation, row, lambda w, g, state, live, step: rmsprop_reference(w, g, state, live, row))


def _interpolate(device: torch.device) -> None:
    ends, masks, points = [_tensors(0), _tensors(1)], _masks(), torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5])
    flags = [True, False, True]
    moved = [[t.to(device) for t in end] for end in ends]
    found = interpolate(moved, points.to(device), prunable=flags, masks=[mask.to(device) for mask in masks])
    answers = interpolate_reference(ends, points, hull=points.clamp(0, 1), prunable=flags, masks=list(masks))
    for got, answer in zip(found, answers, strict=True):
        _agree(got, answer)


def _magnitude(device: torch.device) -> None:
    weights, masks, count = _tensors(0), _masks(), 1000
    kept, found = magnitude_mask([w.to(device) for w in weights], [mask.to(device) for mask in masks], count)
    got, expected = found.value.item(), threshold(weights, list(masks), count)
    if got != expected:
        raise AssertionError(f"the threshold is {got}; expected {expected}")
    if not all(torch.equal(a.cpu(), b) for a, b in zip(kept, keep(weights, list(masks), count), strict=True)):
        raise AssertionError("the mask is another than by sorting")


def _augment(device: torch.device) -> None:
    images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    indices = torch.arange(9) * 1000
    how: dict[str, Any] = {"seed": 3, "epoch": 2, "padding": 1, "flip": True, "mean": [0.4] * 3, "std": [0.2] * 3}
    _agree(augment(images.to(device), indices.to(device), **how), augment_reference(images, indices, **how))


def _norm_act(device: torch.device) -> None:
    x, d, residual = (
        torch.randn(9, 6, 5, 5, generator=torch.Generator().manual_seed(k)).contiguous(
            memory_format=torch.channels_last
        )
        for k in range(3)
    )
    leaves = [t.to(device).requires_grad_() for t in (x, torch.linspace(1, 2, 6), torch.linspace(-1, 1, 6), residual)]
    expected = [t.detach().cpu().double().requires_grad_() for t in leaves]
    for function, (number, weight, bias, added), given in (
        (norm_act, leaves, d.to(device)),
        (norm_act_reference, expected, d.double()),
    ):
        function(number, weight, bias, residual=added).backward(given)
    for got, answer in zip(leaves, expected, strict=True):
        assert got.grad is not None and answer.grad is not None
        _agree(got.grad, answer.grad)


def _conv_bn(device: torch.device) -> None:
    shapes = ((2, 3, 5, 7, 8), (2, 16, 3, 3, 8), (2, 8), (2, 8))  # of input, weight, scale and shift
    given = [torch.randn(s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate(shapes)]
    leaves = [tensor.to(device).requires_grad_() for tensor in given]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    for function, each in ((conv_bn, leaves), (conv_bn_reference, exact)):
        out, mean, var = function(*each, stride=2)
        ((out - mean[:, None, None, None]).square().sum() + (mean * var).sum()).backward()
    for got, answer in zip(leaves, exact, strict=True):
        assert got.grad is not None and answer.grad is not None
        _agree(got.grad / answer.grad.abs().max().float().to(device), answer.grad / answer.grad.abs().max())


TESTS: dict[str, Test] = {
    "masked_sgd": _sgd(),
    "masked_adam": _adam(masked_adam.operation, 0.0),
    "masked_adam with amsgrad": _adam(masked_adam.amsgrad_operation, 1.0),
    "masked_rmsprop": _rmsprop(False, False),
    "masked_rmsprop with momentum": _rmsprop(False, True),
    "masked_rmsprop, centered": _rmsprop(True, False),
    "masked_rmsprop, centered, with momentum": _rmsprop(True, True),
    "interpolate": _interpolate,
    "magnitude": _magnitude,
    "augment": _augment,
    "norm_act": _norm_act,
    "conv_bn": _conv_bn,
}
"""The tests by operation. Together they compile every kernel for float32."""
