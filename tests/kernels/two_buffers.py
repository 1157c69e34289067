"""Rules with two buffers and with none, on both devices, for the tests of what masked optimizers share."""

import math
from typing import NamedTuple

from sparselt.kernels._optimizer import Operation


class Columns(NamedTuple):
    lr: float
    keep_mean: float
    keep_square: float
    sign: float


def rule(h, weight, gradient, state, step):
    mean, square = state
    mean = h.keep_mean * mean + gradient / step
    square = h.keep_square * square + gradient * gradient
    return weight - h.lr * mean / (math.sqrt(square) + h.lr), (mean, square)


def gpu_rule():
    from two_buffers_on_gpu import rule

    return rule


operation = Operation("two_buffers", Columns, 2, rule, gpu_rule)


class FewColumns(NamedTuple):
    lr: float
    sign: float


def rule_without_state(h, weight, gradient, state, step):
    return weight - h.lr * gradient, ()


def gpu_rule_without_state():
    from two_buffers_on_gpu import rule_without_state

    return rule_without_state


without_state = Operation("no_buffer", FewColumns, 0, rule_without_state, gpu_rule_without_state)
