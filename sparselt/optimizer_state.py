"""The momentum in an optimizer's `state` and in what `state_dict()` saves, by parameter."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain

from torch import Tensor

from sparselt.arena import Arena
from sparselt.errors import SettingError


def momentum_of(state: Mapping[Tensor, dict], parameter: Tensor) -> Tensor | None:
    """What stands in `state`, which gets no entry for it where it has none."""
    return state[parameter].get("momentum_buffer") if parameter in state else None


def expanded_state(state: Mapping[Tensor, dict], arena: Arena | None) -> defaultdict[Tensor, dict]:
    """`state` with momentum in the shape of its parameter, without that of parameters whose first step was skipped.

    Views of the arena, unless momentum is live. Waits for a GPU.
    """
    kept = defaultdict(dict, {p: dict(entry) for p, entry in state.items()})
    if arena is None or not kept:
        return kept
    begun = arena.has_begun()
    for i, p in enumerate(arena.parameters):
        if momentum_of(state, p) is arena.buffers[i]:
            if begun[i]:
                kept[p]["momentum_buffer"] = arena.read(i)
            else:
                del kept[p]
    return kept


def saved_momentum(state_dict: dict, parameters: Sequence[Tensor], names: Sequence[str]) -> dict[Tensor, Tensor]:
    """The momentum that a `state_dict` of MaskedSGD or torch.optim.SGD has for the parameters; checked."""
    keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    found = {
        p: momentum
        for p, key in zip(parameters, keys, strict=False)  # what does not match is refused by torch
        if (momentum := state_dict["state"].get(key, {}).get("momentum_buffer")) is not None
    }
    for name, p in zip(names, parameters, strict=True):
        if p in found and found[p].shape != p.shape:
            raise SettingError(
                f"the saved momentum of {name} has shape {tuple(found[p].shape)}, the parameter {tuple(p.shape)}: "
                "is it the state of another model?"
            )
    return found


def check_momentum(state: Mapping[Tensor, dict], parameters: Sequence[Tensor], names: Sequence[str]) -> None:
    """SettingError for a parameter that has changed its shape since it got its momentum."""
    for name, p in zip(names, parameters, strict=True):
        found = momentum_of(state, p)
        if found is not None and found.shape != p.shape:
            raise SettingError(
                f"{name} has shape {tuple(p.shape)}, its momentum {tuple(found.shape)}: build a new optimizer for it"
            )
