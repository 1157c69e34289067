"""masked_adam: one step of Adam or AdamW for all weights of a network. Masked weights and their state stay exactly 0.

For weight w, gradient g, averages m and v, step t and mask bit k, with the meaning of `torch.optim.Adam` (Kingma and Ba
2015, Algorithm 1; decoupled weight decay: Loshchilov and Hutter 2019, Algorithm 2)::

    d = ±g / grad_scale + weight_decay·w  (- under maximize)
    m = m + (1 - beta1)·(d - m),  v = beta2·v + (1 - beta2)·d²
    u = lr / (1 - beta1^t) · m / (√v / √(1 - beta2^t) + eps)
    w = k·(shrink·w - u),  m = k·m,  v = k·v     (k = 0 gives 0.0, even for NaN and infinity)

t counts the steps of each parameter that were not skipped. Bytes moved for each weight in float32: 28 and the mask (one
bit on a GPU; on a CPU one byte, none in blocks without masked weights), or 12 + 16·density and the mask with live state.
The dense fused optimizer moves 28, and 12 more if a mask is multiplied in.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .._optimizer import Operation
from .cpu import prepare, rule

__all__ = ["Columns", "masked_adam_", "operation"]


class Columns(NamedTuple):
    """A row of hyperparameters, one a group. 1 - beta is stored, because float32 rounds it far less than beta."""

    lr: float
    keep1: float  # 1 - beta1
    beta2: float
    keep2: float  # 1 - beta2
    eps: float
    weight_decay: float  # coupled
    shrink: float  # multiplies the weight; 1 without decoupled decay
    sign: float  # -1 under maximize


operation = Operation("masked_adam", Columns, 2, rule, prepare=prepare)


def masked_adam_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    **options,
) -> None:
    """Updates `parameters` and `state` in place.

    state: [2, length], float32 (float64 for float64 parameters): m, then v. The part of parameter i starts at offsets[i].
    hyperparameters: [groups, 8], see `Columns`.
    For the other arguments, options, shapes, dtypes and errors see `sparselt.kernels._optimizer.Operation.__call__`. The
    step is counted in `steps`; without it every step after the first counts as the second.
    """
    operation(parameters, gradients, state, mask, hyperparameters, **options)
