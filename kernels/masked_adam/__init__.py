"""masked_adam: one step of Adam or AdamW for all weights of a network. Masked weights and their state stay exactly 0.

For weight w, gradient g, averages m and v, step t and mask bit k, with the meaning of `torch.optim.Adam` (Kingma and Ba
2015, Algorithm 1; decoupled weight decay: Loshchilov and Hutter 2019, Algorithm 2)::

    d = ±g / grad_scale + weight_decay·w  (- under maximize)
    m = m + (1 - beta1)·(d - m),  v = beta2·v + (1 - beta2)·d²
    u = lr / (1 - beta1^t) · m / (√v / √(1 - beta2^t) + eps)  (under amsgrad: the largest v so far, Reddi et al. 2018)
    w = k·(shrink·w - u),  m = k·m,  v = k·v     (k = 0 gives 0.0, even for NaN and infinity)

t counts the steps of each parameter that were not skipped. State: m, v and, of `amsgrad_operation`, the largest v. Give
`steps`, or every step after the first counts as the second.

Bytes moved for each weight in float32: 28 and the mask (one bit on a GPU; on a CPU one byte, none in blocks without
masked weights), or 12 + 16·density and the mask with live state. The dense fused optimizer moves 28, and 12 more if a
mask is multiplied in.

For arguments, options, shapes, dtypes and errors see `sparselt.kernels._optimizer.Operation.__call__`.
"""

from collections.abc import Callable
from typing import NamedTuple

from .._optimizer import Operation
from .cpu import amsgrad_rule, prepare, rule

__all__ = ["AmsgradColumns", "Columns", "amsgrad_operation", "operation"]


class Columns(NamedTuple):
    """A row of hyperparameters, one a group. Float32 arithmetic could not get 1 - beta exactly from beta."""

    lr: float
    keep1: float  # 1 - beta1
    log1: float  # the natural logarithm of beta1, -inf for 0
    beta2: float
    keep2: float  # 1 - beta2
    log2: float  # of beta2
    eps: float
    weight_decay: float  # coupled
    shrink: float  # multiplies the weight; 1 without decoupled decay
    amsgrad: float  # 0 or 1; read by `amsgrad_operation` only
    sign: float  # -1 under maximize


class AmsgradColumns(Columns):
    """The same for `amsgrad_operation`."""


def _gpu_rule() -> Callable:
    from .gpu import rule

    return rule


def _gpu_amsgrad_rule() -> Callable:
    from .gpu import amsgrad_rule

    return amsgrad_rule


operation = Operation("masked_adam", Columns, 2, rule, _gpu_rule, prepare=prepare)
amsgrad_operation = Operation(
    "masked_adam_amsgrad", AmsgradColumns, 3, amsgrad_rule, _gpu_amsgrad_rule, prepare=prepare
)
