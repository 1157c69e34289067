"""Flat memory for the optimizer's state and masks, so that one launch serves a whole network, or several.

State and mask of all parameters lie in flat arenas. Each parameter's part is padded to whole blocks and has the
parameter's memory order. Parameters and gradients are not moved: `.to(memory_format=...)` or `deepcopy` would silently
detach parameters from an arena, and accumulating gradients in one would take three passes.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import MaskError, SettingError
from sparselt.kernels._optimizer.arguments import check_parameters
from sparselt.kernels._optimizer.layout import (
    PAD,
    block_table,
    blocks_in,
    live_places,
    pack_mask,
    padded_offsets,
    unpack_mask,
)
from sparselt.kernels._tensors import Siblings
from sparselt.weights import names_among, pruned_by_torch, split_over_ranks


class Arena:
    """State and mask of `parameters`, and the addresses of the parameters, which stay where they are.

    count: numbers of state for each weight.
    state: [count, length], float32 (float64 for float64 parameters), zero at first. With `live_state` the length is one
        place for each live weight, and at most 7 spare ones a block.
    buffers: for each parameter its part of each row of `state`, in its shape and strides; flat with `live_state`.
    steps: int32, the steps that each block has made with state.
    mask, blocks, shadow: see `sparselt.kernels._optimizer.Launch`. offsets: where each parameter's part starts.
    sources: the tensors whose gradients the kernel reads: each parameter, or its bfloat16 copy.
    Raises SettingError, naming the parameter, if no kernel takes it or it differs in dtype or device from the others.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        masks: Sequence[Tensor | None],
        count: int,
        live_state: bool = False,
        copies: Mapping[Tensor, Tensor] | None = None,
    ):
        try:
            check_parameters(parameters, names)
        except ValueError as error:
            raise SettingError(str(error)) from error
        self.parameters, self.count, self.live_state = list(parameters), count, live_state
        self._shapes, self._strides = [p.shape for p in parameters], [p.stride() for p in parameters]
        self.device, self.dtype = parameters[0].device, parameters[0].dtype
        self.offsets, self._length = padded_offsets([p.numel() for p in self.parameters])
        self._share(copies or {})
        self._siblings = Siblings(self.parameters, self.sources)
        self.steps = torch.zeros(self._length // PAD, dtype=torch.int32, device=self.device)
        self.buffers: list[tuple[Tensor, ...]] = []
        self.set_masks(masks)

    def _share(self, copies: Mapping[Tensor, Tensor]) -> None:
        """Gives the parameters' copies memory in one arena, as the kernel writes them."""
        self.sources = [copies.get(p, p) for p in self.parameters]
        self.shadowed = [source is not p for source, p in zip(self.sources, self.parameters, strict=True)]
        self.shadow = torch.zeros(self._length, dtype=torch.bfloat16, device=self.device) if copies else None
        self._pairs = [(i, self.sources[i], p) for i, p in enumerate(self.parameters) if self.shadowed[i]]
        for i, copy, p in self._pairs:
            assert self.shadow is not None
            if (p.dtype, p.device) != (torch.float32, copy.device):
                raise SettingError(
                    f"a parameter with a bfloat16 copy is now {p.dtype} on {p.device}: expected torch.float32 on "
                    f"{copy.device}; call copy_to_bfloat16 again"
                )
            copy.data = self._shaped(self.shadow, i, self.offsets[i])

    @torch.no_grad()
    def write_copies(self) -> None:
        """Copies the parameters to their bfloat16 copies."""
        if self._pairs:
            torch._foreach_copy_([copy for _, copy, _ in self._pairs], [p for *_, p in self._pairs])

    def set_masks(self, masks: Sequence[Tensor | None]) -> None:
        """Sets the masks: for each parameter a bool tensor of its shape, or None if every weight lives.

        Live state moves to the new `buffers`; that of newly masked weights is dropped. Dense state is not zeroed.
        """
        self.masks = list(masks)
        live = torch.zeros(self._length, dtype=torch.bool, device=self.device)
        for i, mask in enumerate(masks):
            part = self._shaped(live, i, self.offsets[i])
            part.copy_(mask) if mask is not None else part.fill_(True)
        moved = [self.read(i) for i in range(len(self.buffers))] if self.live_state else []
        self.mask = pack_mask(live)
        self.blocks, places = block_table(live)
        if self.buffers and not self.live_state:
            return
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        length = places if self.live_state else self._length
        self.state = torch.zeros(self.count, length, dtype=wide, device=self.device)
        if self.live_state:
            starts = [*self.blocks[:, 1].tolist(), length]
            parts = [self._rows(i) for i in range(len(self.parameters))]
            self.buffers = [tuple(row[starts[part.start] : starts[part.stop]] for row in self.state) for part in parts]
        else:
            self.buffers = [
                tuple(self._shaped(row, i, row.storage_offset() + offset) for row in self.state)
                for i, offset in enumerate(self.offsets)
            ]
        for i, tensors in enumerate(moved):
            self.write(i, tensors)

    def read(self, i: int) -> tuple[Tensor, ...]:
        """The state of parameter i in its shape: views of the arena, or copies with `live_state`."""
        if not self.live_state:
            return self.buffers[i]
        live, places = self._places(i)
        found = []
        for row in self.state:
            flat = row.new_zeros(len(live))
            flat[live] = row[places]
            found.append(self._shaped(flat, i))
        return tuple(found)

    def write(self, i: int, tensors: Sequence[Tensor]) -> None:
        """Copies in the state of parameter i, in its shape. Live state drops the masked places."""
        live, places = self._places(i) if self.live_state else (None, None)
        for row, buffer, tensor in zip(self.state, self.buffers[i], tensors, strict=True):
            if live is None:
                buffer.copy_(tensor)
            else:
                flat = row.new_zeros(len(live))
                self._shaped(flat, i).copy_(tensor)
                row[places] = flat[live]

    def zero_masked(self, i: int, gone: Tensor) -> None:
        """Zeroes the state of the weights in `gone`. Live state has no place for them."""
        if not self.live_state:
            for buffer in self.buffers[i]:
                buffer.masked_fill_(gone, 0)

    def step_counts(self) -> list[int]:
        """The steps with state that each parameter has made; 1 for an empty parameter. Waits for a GPU."""
        steps = self.steps.tolist()
        parts = [self._rows(i) for i in range(len(self.parameters))]
        return [1 if part.start == part.stop else steps[part.start] for part in parts]

    def set_steps(self, i: int, steps: int) -> None:
        """Sets the number of steps that parameter i has made. After 0, its next step starts with fresh state."""
        self.steps[self._rows(i)] = steps

    @property
    def some_missing(self) -> bool:
        """Whether a gradient was None in the last call of `addresses`."""
        return self._siblings.some_missing

    def fits(self) -> bool:
        """Whether every parameter still has its device, dtype, shape and strides."""
        return self.addresses([None] * len(self.parameters)) is not None

    def addresses(self, gradients: list[Tensor | None]) -> np.ndarray | None:
        """Addresses of the parameters, then of the gradients; None if one has another layout than at construction."""
        return self._siblings.addresses(gradients)

    def _rows(self, i: int) -> slice:
        """The blocks of parameter i; none for an empty one, whose offset may be the next parameter's or the end."""
        first = self.offsets[i] // PAD
        return slice(first, first + blocks_in(self._shapes[i].numel()))

    def _places(self, i: int) -> tuple[Tensor, Tensor]:
        """Which weights in the blocks of parameter i live, and the place of each one's state in a row of `state`."""
        rows = self._rows(i)
        scale = 1 if self.device.type == "cpu" else 8
        live = unpack_mask(self.mask[rows.start * PAD // scale : rows.stop * PAD // scale])
        return live, live_places(live, self.blocks[rows])

    def _shaped(self, flat: Tensor, i: int, offset: int = 0) -> Tensor:
        return flat.as_strided(self._shapes[i], self._strides[i], offset)


def fitted_mask(
    mask: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor] | None, whose: str = "this optimizer"
) -> dict[str, Tensor]:
    """The layers of `mask` under the names in `parameters`; none for None. It sees through wrappers as `Mask` does.

    parameters: by name; None if they have no names. Raises MaskError, naming the layer, if the mask does not fit.
    """
    if mask is None:
        return {}
    if not isinstance(mask, Mapping):
        raise MaskError(f"mask is a {type(mask).__name__}: expected a sparselt.Mask, or bool tensors by parameter name")
    if parameters is None:
        raise MaskError("a mask goes by parameter names, and these have none: pass model.named_parameters()")
    names, fitted = names_among(parameters, mask), {}
    for name, layer in mask.items():
        if split := split_over_ranks(names.get(name, name), parameters):
            raise MaskError(split)
        if name not in names:
            if f"{name}_orig" in parameters:
                raise MaskError(pruned_by_torch(name))
            taken, shape = set(names.values()), getattr(layer, "shape", None)
            free = [known for known, p in parameters.items() if known not in taken and p.shape == shape]
            near = get_close_matches(name, free, n=1)
            raise MaskError(
                f"the mask has a layer {name!r}, which is no parameter of {whose}; "
                + (f"the nearest name is {near[0]!r}. " if near else "is it the mask of another model? ")
                + "A frozen parameter is given to the optimizer all the same, or left out of the mask"
            )
        parameter = parameters[names[name]]
        if not isinstance(layer, Tensor) or layer.dtype != torch.bool:
            found = layer.dtype if isinstance(layer, Tensor) else type(layer).__name__
            raise MaskError(f"the mask of {name} is {found}: expected a bool tensor, True where a weight lives")
        if layer.shape != parameter.shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(layer.shape)}, the parameter {tuple(parameter.shape)}: "
                "is it the mask of another model?"
            )
        fitted[names[name]] = layer
    return fitted
