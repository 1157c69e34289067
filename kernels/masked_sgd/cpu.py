"""masked_sgd on the CPU: one pass in Numba, a byte of mask a weight (packed bits cost more there than they save)."""

import numpy as np
from numba import carray
from torch import Tensor

from .._compile import compiled
from .._memory import AS, pointer, read, write
from .._threads import split

# Handing parts to threads costs about 60 µs, a million weights about 350 (two EPYC cores).
PARALLEL_FROM = 1 << 20


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
    like = AS[parameters[0].dtype]
    arguments = (table, hyperparameters.numpy(), momentum.numpy(), mask.numpy(), like, first_step)
    split(_update, arguments, sum(sizes), PARALLEL_FROM)


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
            weights = carray(pointer(table[0, t], like), size)[low:high]
            gradients = carray(pointer(table[1, t], like), size)[low:high]
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
        weight, direction = read(weights, i), sign * read(gradients, i)
        if decay != 0:
            direction += decay * weight
        weight = shrink * weight - lr * direction
        write(weights, i, weight if live[i] != 0 else zero)


@compiled
def _with_momentum(weights, gradients, buffers, live, lr, mu, decay, shrink, sign, nesterov, first_step, keep):
    zero = mu - mu
    for i in range(weights.size):
        weight, direction = read(weights, i), sign * read(gradients, i)
        if decay != 0:
            direction += decay * weight
        buffer = direction if first_step else mu * buffers[i] + keep * direction
        step = direction + mu * buffer if nesterov else buffer
        weight = shrink * weight - lr * step
        buffers[i] = buffer if live[i] != 0 else zero
        write(weights, i, weight if live[i] != 0 else zero)
