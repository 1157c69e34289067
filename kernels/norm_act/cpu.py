"""norm_act on the CPU: numbers in the order of memory, 64 at a time in vector registers, see `_vectors.Tiles`.

Memory is [pixels, channels], read as tiles of 64 numbers. From `period` tiles on, tiles hold the same channels again,
so each tile of a period has its own sums and factors. Threads share units of about 32 Ki numbers.
"""

from functools import lru_cache
from math import gcd

import numpy as np
import torch
from torch import Tensor

from .. import _vectors
from .._compile import callback
from .._jobs import NEXT, THREADS, types_of
from .._threads import share
from .._vectors import BLOCK
from . import loops, parts
from .parts import apply, backward, expand, expand_first, forward, settle, settle_back, sum_units

PARALLEL_FROM = 1 << 17  # numbers, 20 µs
_UNIT = 1 << 9  # tiles of a unit: 128 KiB in float32, so that a unit stays in the second-level cache
_FILES = [str(module.__file__) for module in (_vectors, loops, parts)] + [__file__]


def norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, mean and 1 / standard deviation of CPU tensors, which are not checked."""
    out, mean, inverse = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)
    options = torch.tensor([momentum, eps], dtype=torch.float64)
    arrays = mean, inverse, weight, bias, running_mean, running_var, options
    call = _Call((input, out, residual, None, None), arrays, relu)
    if call.alone:
        call.run(_forward_body)
    else:
        call.run(_expand_first_body)
        call.run(_sum_body, shared=True)
        call.run(_settle_body)
        call.run(_apply_body, shared=True)
    return out, mean, inverse


def norm_act_backward(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    out: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of input, residual (empty without `out`), weight and bias. Nothing is checked."""
    by_input, by_weight, by_bias = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(bias)
    masked = input.new_empty(0) if out is None else torch.empty_like(input)
    arrays = mean, inverse, weight, bias, by_weight, by_bias, None
    call = _Call((input, by_input, out, gradient, None if out is None else masked), arrays, relu)
    if call.alone:
        call.run(_backward_body)
    else:
        call.run(_expand_body)
        call.run(_sum_body, shared=True)
        call.run(_settle_back_body)
        call.run(_apply_body, shared=True)
    return by_input, masked, by_weight, by_bias


class _Call:
    """The memory of a call, and its parts.

    tensors: input, output, residual (backward: output of the forward pass), gradient, masked gradient; None: without.
    further: the other addresses, in the order of the words. alone: whether one thread does all.
    """

    def __init__(self, tensors: tuple[Tensor | None, ...], further: tuple[Tensor | None, ...], relu: bool):
        x = tensors[0]
        assert x is not None
        self._dtype, numbers, channels = x.dtype, x.numel(), x.shape[1]
        tiles, period = numbers // BLOCK, channels // gcd(channels, BLOCK)
        unit = max(16, _UNIT // period) * period
        self._units = max(1, -(-tiles // unit))
        number = torch.float64 if x.dtype == torch.float64 else torch.float32
        # For parts, sums and factors. Kept here: the words hold addresses only.
        scratch = (
            torch.empty(self._units, 2, channels, dtype=torch.float64),
            torch.empty(self._units, 2, BLOCK, dtype=number),
            torch.empty(5, period * BLOCK, dtype=number),
        )
        self._kept = scratch, further
        addresses = [0 if t is None else t.data_ptr() for t in (*tensors, *scratch, *further)]
        shape = channels, tiles, period, unit, numbers, int(relu), self._units
        self._words = np.array([0, self._units, 1, *addresses, *shape], np.int64)
        self._address = self._words.ctypes.data
        self.alone = torch.get_num_threads() == 1 or self._units == 1 or numbers < PARALLEL_FROM

    def run(self, body, shared: bool = False) -> None:
        """Runs a part on one thread, or shares its units among threads."""
        self._words[NEXT] = 0
        self._words[THREADS] = torch.get_num_threads() if shared else 1
        share(body(self._dtype), self._address, shared)


@lru_cache
def _forward_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: forward(job, like, number, version))


@lru_cache
def _backward_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: backward(job, like, number, version))


@lru_cache
def _expand_first_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: expand_first(job, like, number, version))


@lru_cache
def _sum_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: sum_units(job, like, number, version))


@lru_cache
def _settle_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: settle(job, like, number, version))


@lru_cache
def _expand_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: expand(job, like, number, version))


@lru_cache
def _apply_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: apply(job, like, number, version))


@lru_cache
def _settle_back_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, *_FILES)
    return callback(lambda job: settle_back(job, like, number, version))
