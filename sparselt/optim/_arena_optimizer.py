"""ArenaOptimizer: a torch optimizer whose masks and state lie in an arena; its `state` holds views of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels._optimizer import Operation
from sparselt.kernels._optimizer.layout import Layout
from sparselt.optim._arena import Arena, fitted_mask
from sparselt.optim._hyperparameters import Hyperparameters, Number


class ArenaOptimizer(torch.optim.Optimizer):
    """The part of `MaskedOptimizer` that keeps `state` and the arena in agreement.

    Once the kernel uses them, an entry of `state` holds the arena's buffers. Another tensor found there (loaded, or set
    by the user) is copied into the arena before the next step.
    """

    operation: Operation
    state_keys: tuple[str, ...] = ()
    counts_steps: ClassVar[bool] = False
    numbers: ClassVar[tuple[str, ...]] = ("lr",)
    flags: ClassVar[tuple[str, ...]] = ()

    _mask: Mapping[str, Tensor] | None = None
    _live_state = False
    _built: Arena | None = None
    _last_versions_and_addresses: tuple | None = None  # see `MaskedOptimizer._versions_and_addresses`
    _copies: Mapping[Tensor, Tensor] = {}  # by parameter, see `MaskedOptimizer.copy_to_bfloat16`

    @staticmethod
    def columns(group: dict, number: Number) -> Sequence:
        """A group's row of the kernel's columns. `number` converts each option."""
        raise NotImplementedError

    def kernel(self) -> tuple[Operation, tuple[str, ...]]:
        """The kernel and its `state_keys` that the present groups need. Asked in every step."""
        return type(self).operation, type(self).state_keys

    def keeps_state(self, group: dict) -> bool:
        """Whether weights of the group have state. Must agree with the kernel's column `kept_by`."""
        return bool(self.state_keys)

    def named_state(self) -> dict[str, dict[str, Tensor]]:
        """The state by parameter name, without parameters that have made no step. Waits for a GPU."""
        state = self._expanded_state()
        return {name: state[p] for name, p in zip(self._names(), self._all_parameters(), strict=True) if p in state}

    @property
    def _arena(self) -> Arena:
        """The arena, built first if there is none, as after unpickling."""
        return self._built or self._build()

    def _current_arena(self) -> Arena:
        """The arena, rebuilt if the kernel, or the device, dtype, shape or memory order of a parameter has changed."""
        arena = self._arena
        return arena if arena.fits() and self.kernel() == (self.operation, self.state_keys) else self._build()

    def _build(self) -> Arena:
        """Builds a new arena with the present state."""
        parameters, masks = self._all_parameters(), self._masks()
        kept = self._expanded_state()
        self.operation, self.state_keys = self.kernel()
        for p, entry in kept.items():  # another kernel than before may have more buffers
            if any(entry.get(key) is not None for key in self.state_keys):
                entry.update({key: torch.zeros_like(p) for key in self.state_keys if entry.get(key) is None})
        self._check_shapes(kept, "{name} has shape {shape}, its {key} {found}: build a new optimizer for it")
        arena = Arena(parameters, self._names(), masks, len(self.state_keys), self._live_state, self._copies)
        self._built = arena
        self._group_of = [g for g, group in enumerate(self.param_groups) for _ in group["params"]]
        self._layout = Layout([p.numel() for p in parameters], arena.offsets, self._group_of, arena.shadowed)
        width = len(self.operation.columns._fields)
        self._hyperparameters = Hyperparameters(self.columns, self.numbers, self.param_groups, width, arena.device)
        self.state.clear()
        self.state.update(kept)
        self._note_state_identity()
        self._last_versions_and_addresses = None
        self._zeroed = [-1] * len(parameters)
        arena.write_copies()
        return arena

    def _found(self, parameter: Tensor) -> list[Tensor] | None:
        """The parameter's buffers in `state`, or None if one is missing. Creates no entry."""
        entry = self.state.get(parameter, {})
        found = [entry[key] for key in self.state_keys if entry.get(key) is not None]
        return found if len(found) == len(self.state_keys) else None

    def _state_is_in_arena(self, i: int) -> bool:
        """Whether `state` holds the arena's buffers of parameter i."""
        found = self._found(self._arena.parameters[i]) or []
        return bool(found) and all(a is b for a, b in zip(found, self._arena.buffers[i], strict=True))

    def _point_state_at_arena(self, i: int) -> None:
        """Puts the arena's buffers of parameter i into `state`."""
        entry = self.state[self._arena.parameters[i]]
        entry.update(zip(self.state_keys, self._arena.buffers[i], strict=True))
        entry.pop("step", None)  # the arena counts

    def _expanded_state(self) -> defaultdict[Tensor, dict]:
        """`state` in the shapes of the parameters, without parameters that have made no step yet.

        Its tensors are views of the arena, or copies of live state.
        """
        kept = defaultdict(dict, {p: dict(entry) for p, entry in self.state.items()})
        arena = self._built
        if arena is None or not kept:
            return kept
        for i, (p, steps) in enumerate(zip(arena.parameters, arena.step_counts(), strict=True)):
            if self._state_is_in_arena(i):
                kept[p].update(zip(self.state_keys, arena.read(i), strict=True))
                if self.counts_steps:
                    kept[p]["step"] = torch.tensor(float(steps))
                if not steps:
                    del kept[p]
        return kept

    def _check_shapes(self, state: Mapping[Tensor, dict], message: str) -> None:
        """Raises SettingError if a buffer has another shape than its parameter."""
        for name, p in zip(self._names(), self._all_parameters(), strict=True):
            for key in self.state_keys:
                found = state[p].get(key) if p in state else None
                if found is not None and found.shape != p.shape:
                    key, found, shape = key.replace("_buffer", ""), tuple(found.shape), tuple(p.shape)
                    raise SettingError(message.format(name=name, key=key, found=found, shape=shape))

    @torch.no_grad()
    def _copy_state_into_arena(self, gradients: list[Tensor | None] | None = None) -> None:
        """Copies tensors that others put into `state` into the arena. Parameters with a first gradient get an entry."""
        arena = self._arena
        for i in self._parameters_not_in_arena():
            found = self._found(arena.parameters[i])
            if found is not None:
                arena.write(i, [tensor.detach() for tensor in found])
                arena.set_steps(i, int(self.state[arena.parameters[i]].get("step", 1)))
                self._last_versions_and_addresses = None  # the copied state may be nonzero under the mask
            elif gradients is None or gradients[i] is None:
                continue
            else:
                arena.set_steps(i, 0)
            self._point_state_at_arena(i)
        self._note_state_identity()

    def _parameters_not_in_arena(self) -> list[int]:
        """The parameters that keep state, but whose entry in `state` does not hold the arena's buffers."""
        keeps = list(map(self.keeps_state, self.param_groups))
        with_state = [i for i in range(len(self._arena.parameters)) if keeps[self._group_of[i]]]
        return [i for i in with_state if not self._state_is_in_arena(i)]

    def _note_state_identity(self) -> None:
        """Notes what `state` holds, so that the next step sees whether somebody has changed it."""
        self._noted_identity, self._noted_not_in_arena = self._state_identity(), self._parameters_not_in_arena()

    def _state_identity(self) -> tuple[list[int], list[bool]]:
        # Called in every step, so it must not hash tensors, which is slow.
        held = [id(entry.get(key)) for key in self.state_keys for entry in self.state.values()]
        return held, list(map(self.keeps_state, self.param_groups))

    def _names(self) -> list[str]:
        return [
            name
            for g, group in enumerate(self.param_groups)
            for name in group.get("param_names", [f"parameter {i} of group {g}" for i in range(len(group["params"]))])
        ]

    def _by_name(self) -> dict[str, Tensor] | None:
        if any("param_names" not in group for group in self.param_groups):
            return None
        return dict(zip(self._names(), self._all_parameters(), strict=True))

    def _all_parameters(self) -> list[Tensor]:
        return list(chain.from_iterable(group["params"] for group in self.param_groups))

    def _masks(self) -> list[Tensor | None]:
        layers = fitted_mask(self._mask, self._by_name())
        return [layers.get(name) for name in self._names()]
