"""MaskedAdamW: `torch.optim.AdamW` with masks."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from sparselt.optim.adam import MaskedAdam


class MaskedAdamW(MaskedAdam):
    """`MaskedAdam` with decoupled weight decay (Loshchilov and Hutter 2019): a step multiplies by 1 - lr·weight_decay.

    Its options are those of `torch.optim.AdamW`, mask and live_state.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | Tensor = 1e-8,
        weight_decay: float | Tensor = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        mask: Mapping[str, Tensor] | None = None,
        live_state: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize, True, mask, live_state)

    def complete_group(self, group: dict) -> None:
        """As torch's AdamW, it decays decoupled even with a state that Adam saved."""
        super().complete_group(group)
        group["decoupled_weight_decay"] = True


OPTIMIZER = MaskedAdamW
