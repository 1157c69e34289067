"""The rule of masked_adam on the CPU, which Numba inlines into the pass of every masked optimizer."""

import math


def prepare(h, step):
    """lr / (1 - beta1^step) and 1 / √(1 - beta2^step), in float64."""
    first = -math.expm1(step * math.log1p(-h.keep1))
    second = -math.expm1(step * math.log1p(-h.keep2))
    return h.lr / first, 1 / math.sqrt(second)


def rule(h, weight, gradient, state, prepared):
    mean, square = state
    rate, correction = prepared
    if h.weight_decay != 0:
        gradient += h.weight_decay * weight
    mean += h.keep1 * (gradient - mean)
    square = h.beta2 * square + h.keep2 * gradient * gradient
    return h.shrink * weight - rate * mean / (correction * math.sqrt(square) + h.eps), (mean, square)
