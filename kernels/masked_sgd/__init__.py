"""masked_sgd: one step of SGD for all weights of a network. Masked weights and their momentum stay exactly 0.

For weight w, gradient g, momentum buffer b and mask bit k, with the meaning of `torch.optim.SGD`::

    d = ±g / grad_scale + weight_decay·w  (- under maximize)
    b = momentum·b + (1 - dampening)·d    (b = d in a parameter's first step; b is not touched where momentum is 0)
    u = d + momentum·b under nesterov, b otherwise, d where momentum is 0
    w = k·(shrink·w - lr·u),  b = k·b     (k = 0 gives 0.0, even for NaN and infinity)

Bytes moved for each weight, float32 with momentum: 20 and the mask (one bit on a GPU; on a CPU one byte, none in blocks
without masked weights), or 12 + 8·density and the mask with live momentum. The dense fused optimizer moves 20, and 12
more if a mask is multiplied in.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from .._optimizer import Operation
from .._optimizer.layout import PAD, block_table, pack_bits, pack_mask, padded_offsets, unpack_mask
from .cpu import rule

__all__ = [
    "COLUMNS",
    "PAD",
    "Columns",
    "block_table",
    "masked_sgd_",
    "operation",
    "pack_bits",
    "pack_mask",
    "padded_offsets",
    "unpack_mask",
]


class Columns(NamedTuple):
    """A row of hyperparameters, one a group."""

    lr: float
    momentum: float
    keep: float  # 1 - dampening
    weight_decay: float  # coupled
    shrink: float  # multiplies the weight; 1 without decoupled decay
    sign: float  # -1 under maximize
    nesterov: float  # 0 or 1


COLUMNS = Columns._fields


def _gpu_rule() -> Callable:
    from .gpu import rule

    return rule


operation = Operation("masked_sgd", Columns, 1, rule, _gpu_rule, kept_by="momentum", name_of_state="momentum")


def masked_sgd_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    **options,
) -> None:
    """Updates `parameters` and `momentum` in place.

    momentum: [length], float32 (float64 for float64 parameters). The part of parameter i starts at offsets[i].
    hyperparameters: [groups, 7], see `Columns`.
    For the other arguments, options, shapes, dtypes and errors see `sparselt.kernels._optimizer.Operation.__call__`.
    """
    operation(parameters, gradients, momentum, mask, hyperparameters, **options)
