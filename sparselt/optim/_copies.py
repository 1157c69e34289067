"""CopyingOptimizer: bfloat16 copies of weights for the forward pass, which the optimizer's own pass writes."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import SettingError
from sparselt.optim._saved import SavedOptimizer
from sparselt.optim._uncompiled import uncompiled


class CopyingOptimizer(SavedOptimizer):
    """The part of `MaskedOptimizer` that keeps bfloat16 copies of weights, and notices writes to the weights."""

    def copy_to_bfloat16(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Bfloat16 copies of these parameters, which every step writes, and whose gradients it reads instead of theirs.

        A forward pass that uses the copies has no casts of weights, and its backward pass none of gradients. Under
        autocast it gives the same bits if each parameter is used once and only by operations that autocast casts, and
        if gradients are not accumulated: a bfloat16 gradient is exact in float32, but a sum is not. The steps end with
        the same bits, too.

        Returns tensors that require gradients, in the parameters' order, each with its parameter's shape and memory
        order. They stay the same objects and are rounded to nearest, ties to even; masked weights are 0 in them.
        `refresh_copies` brings them up to date after somebody else has written to a parameter. The call replaces an
        earlier one; with no parameters it ends the copying. A deep copy of the optimizer has no copies.

        The gradients are the copies' own: `clip_grad_norm_` and `zero_grad` of the model do not see them. Clip those of
        the returned tensors, too, and call the optimizer's `zero_grad`.

        Raises SettingError for a tensor that is no float32 parameter of this optimizer. A step raises it for a
        parameter that has a gradient beside that of its copy, and with a `GradScaler`, which bfloat16 does not need.
        """
        parameters = list(parameters)
        if not parameters and not self._copies:
            return []
        names = dict(zip(self._all_parameters(), self._names(), strict=True))
        for i, p in enumerate(parameters):
            if p not in names or p.dtype != torch.float32:
                raise SettingError(
                    f"{names.get(p, f'tensor {i}')} is {p.dtype} of shape {tuple(p.shape)}: expected float32 "
                    "parameters of this optimizer"
                )
        self._current_arena()
        self._copy_state_into_arena()
        self._copies = {p: torch.empty(0, dtype=torch.bfloat16, device=p.device).requires_grad_() for p in parameters}
        self._build()
        self.refresh()
        return [self._copies[p] for p in parameters]

    def refresh_copies(self) -> None:
        """Brings the copies of `copy_to_bfloat16` up to date if torch has counted a write to a parameter since the last
        step. Call it before a forward pass that uses them.
        """
        if self._copies and self._changed(self._arena.addresses([None] * len(self._arena.parameters))):
            self.refresh()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch; for the copies of `copy_to_bfloat16`, too."""
        uncompiled(super().zero_grad)(set_to_none)
        for copy in self._copies.values():
            if set_to_none:
                copy.grad = None
            elif copy.grad is not None:
                copy.grad.zero_()

    def _versions_and_addresses(self, addresses: np.ndarray | None) -> tuple:
        """A value that changes when torch counts a write to a parameter, or a parameter gets other memory."""
        parameters = self._arena.parameters
        return [p._version for p in parameters], addresses is not None and addresses[: len(parameters)].tobytes()

    def _changed(self, addresses: np.ndarray | None) -> bool:
        return self._versions_and_addresses(addresses) != self._last_versions_and_addresses

    def _check_copied(self) -> None:
        for p in self._copies:
            if p.grad is not None:
                name = dict(zip(self._all_parameters(), self._names(), strict=True))[p]
                raise SettingError(
                    f"{name} has a gradient of its own, but the step reads that of its bfloat16 copy: "
                    "call copy_to_bfloat16([]) first, or use the copy in every forward pass"
                )
