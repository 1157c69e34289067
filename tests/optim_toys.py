"""Optimizers as a user may write them, each a rule of ten lines or fewer, with no buffer and one."""

import math
from typing import NamedTuple

from sparselt.kernels._optimizer import Operation
from sparselt.optim import MaskedOptimizer


class SignColumns(NamedTuple):
    lr: float
    sign: float


def sign_descent(h, weight, gradient, state, step):
    """Bernstein et al. 2018 (signSGD), Algorithm 1."""
    return weight - h.lr * (0.0 if gradient == 0 else math.copysign(1.0, gradient)), ()


class SignSGD(MaskedOptimizer):
    operation = Operation("toy_sign", SignColumns, 0, sign_descent)

    def __init__(self, params, lr=1e-3, mask=None):
        super().__init__(params, {"lr": lr}, mask)

    @staticmethod
    def columns(group, number):
        return SignColumns(number(group["lr"]), 1.0)


class LionColumns(NamedTuple):
    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    sign: float


def lion(h, weight, gradient, state, step):
    """Chen et al. 2023 (Symbolic discovery of optimization algorithms), Algorithm 2."""
    (average,) = state
    update = h.beta1 * average + (1 - h.beta1) * gradient
    update = 0.0 if update == 0 else math.copysign(1.0, update)
    average = h.beta2 * average + (1 - h.beta2) * gradient
    return weight - h.lr * (update + h.weight_decay * weight), (average,)


class Lion(MaskedOptimizer):
    operation = Operation("toy_lion", LionColumns, 1, lion)
    state_keys = ("exp_avg",)
    numbers = ("lr", "weight_decay")

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, mask=None, live_state=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, mask, live_state)

    @staticmethod
    def columns(group, number):
        return LionColumns(number(group["lr"]), *group["betas"], number(group["weight_decay"]), 1.0)
