"""MaskedRMSprop: `torch.optim.RMSprop` with masks, in one fused pass over all weights of one or several networks."""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels._optimizer import Operation
from sparselt.kernels.masked_rmsprop import OPERATIONS, Columns
from sparselt.optim._base import MaskedOptimizer
from sparselt.optim._hyperparameters import Number, check_not_negative


class MaskedRMSprop(MaskedOptimizer):
    """RMSprop that keeps masked weights and their state at exactly 0.0 after every step, whatever the gradient.

    params, mask, live_state: see `MaskedOptimizer`, also for moved parameters, gradient scaling and errors.
    lr, alpha, eps, weight_decay, momentum, centered, maximize: as in `torch.optim.RMSprop`, also for each group. lr,
        eps, weight_decay and momentum may be tensors of one element. A tensor on the GPU is read there, also in replays
        of a CUDA graph. If one group is centered or has momentum (a tensor counts as nonzero), all parameters have its
        buffer.

    Without a mask this is `torch.optim.RMSprop`; `state_dict()` loads into it and back. One difference: rounding may
    make the variance of a centered step negative. Torch then gives NaN; here the variance counts as 0.
    """

    operation = OPERATIONS[False, False]
    state_keys = ("square_avg",)
    counts_steps = True
    numbers = ("lr", "eps", "weight_decay", "momentum")
    flags = ("centered", "maximize")

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float | Tensor = 1e-8,
        weight_decay: float | Tensor = 0,
        momentum: float | Tensor = 0,
        centered: bool = False,
        maximize: bool = False,
        mask: Mapping[str, Tensor] | None = None,
        live_state: bool = False,
    ):
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults, mask, live_state)

    def kernel(self) -> tuple[Operation, tuple[str, ...]]:
        groups = self.param_groups
        centered = any(group["centered"] for group in groups)
        momentum = any(isinstance(group["momentum"], Tensor) or group["momentum"] != 0 for group in groups)
        keys = ("square_avg", *(("grad_avg",) if centered else ()), *(("momentum_buffer",) if momentum else ()))
        return OPERATIONS[centered, momentum], keys

    @staticmethod
    def columns(group: dict, number: Number) -> Columns:
        alpha = group["alpha"]
        return Columns(
            lr=number(group["lr"]),
            alpha=alpha,
            keep=1 - alpha,
            eps=number(group["eps"]),
            weight_decay=number(group["weight_decay"]),
            momentum=number(group["momentum"]),
            centered=1.0 if group["centered"] else 0.0,
            sign=-1.0 if group["maximize"] else 1.0,
        )

    def check_group(self, group: dict, given_keys: Collection[str]) -> None:
        """Refuses the values that `torch.optim.RMSprop` refuses, and an alpha of 1 or more, which averages nothing."""
        check_not_negative(group, "lr", "eps", "weight_decay", "momentum")
        if not isinstance(group["alpha"], int | float) or not 0 <= group["alpha"] < 1:
            raise SettingError(f"alpha is {group['alpha']}: expected a number from 0 to below 1")

    def complete_group(self, group: dict) -> None:
        group.setdefault("momentum", 0)
        for key in ("centered", "maximize"):
            group.setdefault(key, False)


OPTIMIZER = MaskedRMSprop
