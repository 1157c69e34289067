"""masked_rmsprop: one step of RMSprop for all weights of a network. Masked weights and their state stay exactly 0.

For weight w, gradient g, averages v and m, momentum buffer b and mask bit k, with the meaning of `torch.optim.RMSprop`
(Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, section 4.2)::

    d = ±g / grad_scale + weight_decay·w  (- under maximize)
    v = alpha·v + (1 - alpha)·d²
    m = m + (1 - alpha)·(d - m)           (only if centered)
    u = d / (√v + eps)                    (if centered √(v - m²), where rounding may make v - m² negative: then 0)
    b = momentum·b + u                    (only with momentum; otherwise b = u)
    w = k·(w - lr·b),  v = k·v, m = k·m, b = k·b     (k = 0 gives 0.0, even for NaN and infinity)

Bytes moved for each weight in float32: 20, 8 more for each of m and b, and the mask (one bit on a GPU; on a CPU one
byte, none in blocks without masked weights).
"""

from collections.abc import Callable
from typing import NamedTuple

from .._optimizer import Operation
from . import cpu

__all__ = ["OPERATIONS", "Columns"]


class Columns(NamedTuple):
    """A row of hyperparameters, one a group."""

    lr: float
    alpha: float
    keep: float  # 1 - alpha
    eps: float
    weight_decay: float
    momentum: float  # read only by operations with a momentum buffer
    centered: float  # 0 or 1; read only by operations with an average of gradients
    sign: float  # -1 under maximize


class MomentumColumns(Columns):
    """The same for the operation with momentum."""


class CenteredColumns(Columns):
    """The same for the centered operation."""


class CenteredMomentumColumns(Columns):
    """The same for the centered operation with momentum."""


def _operation(name: str, columns: type, buffers: int) -> Operation:
    def gpu_rule() -> Callable:
        from . import gpu

        return getattr(gpu, name)

    return Operation(f"masked_rmsprop{name.removeprefix('rule')}", columns, buffers, getattr(cpu, name), gpu_rule)


OPERATIONS = {
    (False, False): _operation("rule", Columns, 1),
    (False, True): _operation("rule_momentum", MomentumColumns, 2),
    (True, False): _operation("rule_centered", CenteredColumns, 2),
    (True, True): _operation("rule_centered_momentum", CenteredMomentumColumns, 3),
}
"""By (centered, momentum). The state is v, then m if centered, then b with momentum.

For arguments, options, shapes, dtypes and errors see `sparselt.kernels._optimizer.Operation.__call__`.
"""
