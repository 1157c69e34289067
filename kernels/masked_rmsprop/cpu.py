"""The rules of masked_rmsprop on the CPU, which Numba inlines into the pass of every masked optimizer."""

import math

from numba.extending import register_jitable


def rule(h, weight, gradient, state, step):
    gradient, square = _averaged(h, weight, gradient, state[0])
    return weight - h.lr * (gradient / (math.sqrt(square) + h.eps)), (square,)


def rule_momentum(h, weight, gradient, state, step):
    gradient, square = _averaged(h, weight, gradient, state[0])
    buffer = h.momentum * state[1] + gradient / (math.sqrt(square) + h.eps)
    return weight - h.lr * buffer, (square, buffer)


def rule_centered(h, weight, gradient, state, step):
    gradient, square = _averaged(h, weight, gradient, state[0])
    mean, size = _centered(h, gradient, square, state[1])
    return weight - h.lr * (gradient / size), (square, mean)


def rule_centered_momentum(h, weight, gradient, state, step):
    gradient, square = _averaged(h, weight, gradient, state[0])
    mean, size = _centered(h, gradient, square, state[1])
    buffer = h.momentum * state[2] + gradient / size
    return weight - h.lr * buffer, (square, mean, buffer)


@register_jitable
def _averaged(h, weight, gradient, square):
    if h.weight_decay != 0:
        gradient += h.weight_decay * weight
    return gradient, h.alpha * square + h.keep * gradient * gradient


@register_jitable
def _centered(h, gradient, square, mean):
    mean += h.keep * (gradient - mean)
    variance = square - mean * mean if h.centered != 0 else square
    variance = h.sign - h.sign if variance < 0 else variance
    return mean, math.sqrt(variance) + h.eps
