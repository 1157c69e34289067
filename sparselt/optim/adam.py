"""MaskedAdam: `torch.optim.Adam` with masks, in one fused pass over all weights of one or several networks."""

import math
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels._optimizer import Operation
from sparselt.kernels.masked_adam import Columns, amsgrad_operation, operation
from sparselt.optim._base import MaskedOptimizer
from sparselt.optim._hyperparameters import Number, check_not_negative


class MaskedAdam(MaskedOptimizer):
    """Adam (Kingma and Ba 2015) that keeps masked weights and their state at exactly 0.0 after every step.

    params, mask, live_state: see `MaskedOptimizer`, also for moved parameters, gradient scaling and errors.
    lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as in `torch.optim.Adam`, also for each
        group. lr, eps and weight_decay may be tensors of one element. A tensor on the GPU is read there, also in
        replays of a CUDA graph. If one group has amsgrad, all parameters have its third buffer.

    Without a mask this is `torch.optim.Adam`; `state_dict()` loads into it and back.
    """

    operation = operation
    state_keys = ("exp_avg", "exp_avg_sq")
    counts_steps = True
    numbers = ("lr", "eps", "weight_decay")
    flags = ("amsgrad", "maximize", "decoupled_weight_decay")

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | Tensor = 1e-8,
        weight_decay: float | Tensor = 0,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        mask: Mapping[str, Tensor] | None = None,
        live_state: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, mask, live_state)

    def kernel(self) -> tuple[Operation, tuple[str, ...]]:
        if any(group["amsgrad"] for group in self.param_groups):
            return amsgrad_operation, (*MaskedAdam.state_keys, "max_exp_avg_sq")
        return operation, MaskedAdam.state_keys

    @staticmethod
    def columns(group: dict, number: Number) -> Columns:
        lr, decay, decoupled = number(group["lr"]), number(group["weight_decay"]), group["decoupled_weight_decay"]
        beta1, beta2 = group["betas"]
        return Columns(
            lr=lr,
            keep1=1 - beta1,
            log1=math.log(beta1) if beta1 else -math.inf,
            beta2=beta2,
            keep2=1 - beta2,
            log2=math.log(beta2) if beta2 else -math.inf,
            eps=number(group["eps"]),
            weight_decay=0.0 if decoupled else decay,
            shrink=1 - lr * decay if decoupled else 1.0,
            amsgrad=1.0 if group["amsgrad"] else 0.0,
            sign=-1.0 if group["maximize"] else 1.0,
        )

    def check_group(self, group: dict, given_keys: Collection[str]) -> None:
        """Refuses the values that `torch.optim.Adam` refuses, and betas that are tensors."""
        check_not_negative(group, "lr", "eps", "weight_decay")
        betas = group["betas"]
        if (
            not isinstance(betas, tuple | list)
            or len(betas) != 2
            or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas)
        ):
            raise SettingError(f"betas is {betas}: expected two numbers from 0 to below 1")

    def complete_group(self, group: dict) -> None:
        for key in ("amsgrad", "maximize", "decoupled_weight_decay"):
            group.setdefault(key, False)


OPTIMIZER = MaskedAdam
