"""The rules of masked_adam on the CPU, which Numba inlines into the pass of every masked optimizer."""

import math

from numba.extending import register_jitable


def prepare(h, step):
    """lr / (1 - beta1^step) and 1 / √(1 - beta2^step), in float64."""
    return h.lr / -math.expm1(step * h.log1), 1 / math.sqrt(-math.expm1(step * h.log2))


def rule(h, weight, gradient, state, prepared):
    mean, square = _averages(h, weight, gradient, state[0], state[1])
    return _moved(h, weight, mean, square, prepared), (mean, square)


def amsgrad_rule(h, weight, gradient, state, prepared):
    mean, square = _averages(h, weight, gradient, state[0], state[1])
    largest = square if square > state[2] or square != square else state[2]
    return _moved(h, weight, mean, largest if h.amsgrad != 0 else square, prepared), (mean, square, largest)


@register_jitable
def _averages(h, weight, gradient, mean, square):
    if h.weight_decay != 0:
        gradient += h.weight_decay * weight
    return mean + h.keep1 * (gradient - mean), h.beta2 * square + h.keep2 * gradient * gradient


@register_jitable
def _moved(h, weight, mean, square, prepared):
    rate, correction = prepared
    return h.shrink * weight - rate * mean / (correction * math.sqrt(square) + h.eps)
