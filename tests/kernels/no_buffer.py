"""A rule without state, on both devices, for the tests of what masked optimizers share."""

from typing import NamedTuple

from sparselt.kernels._optimizer import Operation


class Columns(NamedTuple):
    lr: float
    sign: float


def rule(h, weight, gradient, state, step):
    return weight - h.lr * gradient, ()


def gpu_rule():
    from no_buffer_on_gpu import rule

    return rule


operation = Operation("no_buffer", Columns, 0, rule, gpu_rule)
