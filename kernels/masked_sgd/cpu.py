"""masked_sgd on the CPU: one pass in Numba, a byte of mask a weight (packed bits cost more there than they save)."""

import numpy as np
import torch
from numba import carray, types
from numba.extending import intrinsic, overload
from torch import Tensor

from .._compile import compiled
from .._threads import split

# Handing parts to threads costs about 60 µs, a million weights about 350 (two EPYC cores).
PARALLEL_FROM = 1 << 20

# What the parameters' memory is read as: Numba has no bfloat16, whose bits are the upper half of a float32.
_AS = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0), torch.bfloat16: np.empty(0, np.uint16)}


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    offsets: list[int],
    groups: list[int],
    first_step: bool,
    rewrite: bool,
) -> None:
    """The operator on CPU tensors, unchecked. Masked weights are always rewritten, whatever `rewrite` allows."""
    if not parameters:
        return
    sizes = list(map(Tensor.numel, parameters))
    addresses = map(Tensor.data_ptr, parameters + gradients)
    table = np.array([*addresses, *offsets, *sizes, *groups], dtype=np.int64).reshape(5, -1)
    like = _AS[parameters[0].dtype]
    arguments = (table, hyperparameters.numpy(), momentum.numpy(), mask.numpy(), like, first_step)
    split(_update, arguments, sum(sizes), PARALLEL_FROM)


@intrinsic
def _pointer(typing_context, address, like):
    """The address, as a pointer to elements of the array `like`."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


def _read(array, i):
    """array[i] as a number; uint16 holds bfloat16."""


def _write(array, i, number):
    """array[i] = number; uint16 holds bfloat16, rounded to nearest, ties to even."""


@overload(_read, inline="always")
def _read_overload(array, i):
    if array.dtype == types.uint16:
        return lambda array, i: np.uint32(np.uint32(array[i]) << np.uint32(16)).view(np.float32)
    return lambda array, i: array[i]


@overload(_write, inline="always")
def _write_overload(array, i, number):
    if array.dtype != types.uint16:

        def store(array, i, number):
            array[i] = number

        return store

    def round_and_store(array, i, number):
        bits = np.float32(number).view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = np.uint32(bits + np.uint32(0x7FFF) + even) >> np.uint32(16)
        array[i] = np.uint16(rounded) if number == number else np.uint16(0x7FC0)

    return round_and_store


@compiled
def _update(table, hyperparameters, momentum, mask, like, first_step, start, stop):
    """Weights start to stop, counted over the parameters as if they stood one after the other."""
    number = momentum.dtype.type
    before = 0
    for t in range(table.shape[1]):
        size, offset, h = table[3, t], table[2, t], hyperparameters[table[4, t]]
        low, high = max(start - before, 0), min(stop - before, size)
        before += size
        if low < high:
            weights = carray(_pointer(table[0, t], like), size)[low:high]
            gradients = carray(_pointer(table[1, t], like), size)[low:high]
            buffers, live = momentum[offset + low : offset + high], mask[offset + low : offset + high]
            lr, mu, keep, decay = number(h[0]), number(h[1]), number(h[2]), number(h[3])
            shrink, sign, nesterov = number(h[4]), number(h[5]), h[6] != 0
            if h[1] == 0:
                _plain(weights, gradients, live, lr, decay, shrink, sign)
            elif first_step:
                _with_momentum(
                    weights, gradients, buffers, live, lr, mu, decay, shrink, sign, nesterov, True, number(1)
                )
            else:
                _with_momentum(weights, gradients, buffers, live, lr, mu, decay, shrink, sign, nesterov, False, keep)


@compiled
def _plain(weights, gradients, live, lr, decay, shrink, sign):
    zero = lr - lr
    for i in range(weights.size):
        weight, direction = _read(weights, i), sign * _read(gradients, i)
        if decay != 0:
            direction += decay * weight
        weight = shrink * weight - lr * direction
        _write(weights, i, weight if live[i] != 0 else zero)


@compiled
def _with_momentum(weights, gradients, buffers, live, lr, mu, decay, shrink, sign, nesterov, first_step, keep):
    zero = mu - mu
    for i in range(weights.size):
        weight, direction = _read(weights, i), sign * _read(gradients, i)
        if decay != 0:
            direction += decay * weight
        buffer = direction if first_step else mu * buffers[i] + keep * direction
        step = direction + mu * buffer if nesterov else buffer
        weight = shrink * weight - lr * step
        buffers[i] = buffer if live[i] != 0 else zero
        _write(weights, i, weight if live[i] != 0 else zero)
