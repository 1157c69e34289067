"""MaskedSGD: `torch.optim.SGD` with masks, in one fused pass over all weights of one or several networks."""

import math
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels.masked_sgd import Columns, operation
from sparselt.optim._base import MaskedOptimizer
from sparselt.optim._hyperparameters import Number, check_flags, check_not_negative


class MaskedSGD(MaskedOptimizer):
    """SGD that keeps masked weights and their momentum at exactly 0.0 after every step, whatever the gradient.

    params, mask: see `MaskedOptimizer`, also for moved parameters, gradient scaling and errors.
    lr, momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`, also for each group. The first
        four may be tensors of one element. A tensor on the GPU is read there, also in replays of a CUDA graph. Momentum
        given as a tensor counts as nonzero for `state`.
    decoupled_weight_decay: multiply each weight by 1 - (lr / initial_lr)·weight_decay instead of adding weight_decay·w
        to the gradient, as Paul et al. 2022 (Unmasking) do on ImageNet (decoupled SGD of the Mosaic recipes): the decay
        follows the schedule but not the base learning rate. initial_lr is the group's first lr, under the key that
        torch's schedulers use. To multiply by 1 - lr·decay as AdamW does, give weight_decay = decay·lr.
    live_momentum: store momentum for live weights only, see `live_state` of `MaskedOptimizer`.

    Without a mask this is `torch.optim.SGD`; `state_dict()` loads into it and back.
    """

    operation = operation
    state_keys = ("momentum_buffer",)
    numbers = ("lr", "momentum", "dampening", "weight_decay")
    flags = ("nesterov", "maximize", "decoupled_weight_decay")

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0,
        dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        mask: Mapping[str, Tensor] | None = None,
        live_momentum: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        check_flags({"live_momentum": live_momentum}, ("live_momentum",))
        super().__init__(params, defaults, mask, live_momentum)

    @staticmethod
    def columns(group: dict, number: Number) -> Columns:
        lr, decay, decoupled = number(group["lr"]), number(group["weight_decay"]), group["decoupled_weight_decay"]
        return Columns(
            lr=lr,
            momentum=number(group["momentum"]),
            keep=1 - number(group["dampening"]),
            weight_decay=0.0 if decoupled else decay,
            shrink=1 - lr / number(group["initial_lr"]) * decay if decoupled else 1.0,
            sign=-1.0 if group["maximize"] else 1.0,
            nesterov=1.0 if group["nesterov"] else 0.0,
        )

    def keeps_state(self, group: dict) -> bool:
        """Whether the group has momentum. A tensor counts as nonzero, so that the host need not wait for its value."""
        return isinstance(group["momentum"], Tensor) or group["momentum"] != 0

    def check_group(self, group: dict, given_keys: Collection[str]) -> None:
        """Refuses the values that `torch.optim.SGD` refuses.

        A group without momentum may inherit nesterov, without effect, but must not name it.
        """
        check_not_negative(group, "lr", "momentum", "weight_decay")
        if not -math.inf < group["dampening"] < math.inf:
            raise SettingError(f"dampening is {group['dampening']}: expected a finite number")
        if group["decoupled_weight_decay"] and not group.get("initial_lr", group["lr"]) > 0:
            raise SettingError(
                "decoupled_weight_decay divides by the first lr, which is 0: give the base learning rate as lr"
            )
        if "nesterov" in given_keys and group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise SettingError("nesterov needs a momentum above 0 and dampening 0")

    def complete_group(self, group: dict) -> None:
        for key in ("nesterov", "maximize", "decoupled_weight_decay"):
            group.setdefault(key, False)
        if group["decoupled_weight_decay"]:
            # Only if needed: schedulers start from initial_lr, and a user may change lr before making a scheduler.
            group.setdefault("initial_lr", float(group["lr"]))


OPTIMIZER = MaskedSGD
