"""SavedOptimizer: the state dict of a masked optimizer, which is that of torch's with the mask beside it."""

import warnings
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from sparselt.errors import MaskError, SettingError
from sparselt.optim._arena import fitted_mask
from sparselt.optim._arena_optimizer import ArenaOptimizer
from sparselt.optim._uncompiled import uncompiled


class SavedOptimizer(ArenaOptimizer):
    """The part of `MaskedOptimizer` that saves, loads and pickles its state and its mask."""

    def complete_group(self, group: dict) -> None:
        """Adds options that a group may lack, such as a group saved by an earlier version."""

    def set_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """See `MaskedOptimizer.set_mask`."""
        raise NotImplementedError

    def refresh(self) -> None:
        """See `MaskedOptimizer.refresh`."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """The state dict of torch's optimizer, with live state in the shapes of the parameters. Waits for a GPU.

        Under a mask it has one more entry, "mask": bool tensors by name, which torch's optimizer does not read.
        """
        own, self.state = self.state, self._expanded_state()
        try:
            saved = uncompiled(super().state_dict)()
        finally:
            self.state = own
        return saved if self._mask is None else {**saved, "mask": dict(self._mask)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads a state dict of this class or of torch's optimizer; masked state becomes 0.

        An optimizer without a mask takes the one in the state. An optimizer with a mask keeps its own, and warns if
        weights live in it that the saved one prunes. It warns, too, if a saved mask does not fit its parameters.
        Raises a SettingError for what is no state dict, the state of another optimizer, or of parameters of other
        shapes.
        """
        for key in ("state", "param_groups"):
            if not isinstance(state_dict, Mapping) or key not in state_dict:
                found = f"has no {key!r}" if isinstance(state_dict, Mapping) else f"is a {type(state_dict).__name__}"
                raise SettingError(f"the saved state {found}; expected what the state_dict() of an optimizer returns")
        for group in map(dict, state_dict["param_groups"]):
            self.complete_group(group)
            # Torch adds "differentiable" to the defaults of an optimizer that has loaded or copied a state.
            if lacking := self.defaults.keys() - group.keys() - {"differentiable"}:
                raise SettingError(
                    f"the saved state has no {', '.join(sorted(lacking))}: is it the state of another optimizer than "
                    f"{type(self).__name__}?"
                )
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        # Torch refuses groups that do not match.
        saved = {p: state_dict["state"].get(key, {}) for p, key in zip(self._all_parameters(), keys, strict=False)}
        self._check_shapes(
            saved,
            "the saved {key} of {name} has shape {found}, the parameter {shape}: is it the state of another model?",
        )
        own = [group.get("param_names") for group in self.param_groups]
        uncompiled(super().load_state_dict)(state_dict)
        for group, names in zip(self.param_groups, own, strict=True):
            if names is not None:  # torch takes the saved ones, which a mask may not know
                group["param_names"] = names
        # Torch rounds buffers to the parameters' dtype; bfloat16 is too coarse for state.
        self.state.update({p: dict(entry) for p, entry in saved.items() if entry and p.dtype == torch.bfloat16})
        self._current_arena()
        self._copy_state_into_arena()
        self.refresh()
        self._meet(state_dict.get("mask"))

    def _meet(self, saved: Mapping[str, Tensor] | None) -> None:
        """Takes the mask of a loaded state if the optimizer has none. Warns if the two masks disagree or the saved one
        does not fit.
        """
        try:
            theirs, own = fitted_mask(saved, self._by_name()), fitted_mask(self._mask, self._by_name())
        except MaskError as error:
            warnings.warn(f"the state was saved under a mask, and is loaded without it: {error}", stacklevel=3)
            return
        if self._mask is None and saved is not None:
            self.set_mask(saved)
            return
        revived = sum(
            int((~layer & own[name].to(layer.device)).sum() if name in own else (~layer).sum())
            for name, layer in theirs.items()
        )
        if revived:
            warnings.warn(
                f"the state was saved under another mask: {revived:,} weights that it prunes live in this optimizer's",
                stacklevel=3,
            )

    def __getstate__(self) -> dict:
        own = {"_mask": self._mask, "_live_state": self._live_state, "state": self._expanded_state()}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self.complete_group(group)

    @torch.no_grad()
    def _zero_without_gradient(self, gradients: list[Tensor | None]) -> None:
        """Zeroes masked weights of layers that no kernel visits, such as frozen ones, after somebody has written to
        them.
        """
        arena = self._arena
        for i, (p, mask) in enumerate(zip(arena.parameters, arena.masks, strict=True)):
            if gradients[i] is None and mask is not None and p._version != self._zeroed[i]:
                p.masked_fill_(~mask.to(p.device), 0)
                self._zeroed[i] = p._version
