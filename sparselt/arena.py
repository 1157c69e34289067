"""Flat memory for what the optimizer owns, so that one launch serves a whole network, or several.

Momentum and mask of all parameters lie in two flat buffers, each parameter's part padded to whole blocks and in the
physical order of its memory. Parameters and gradients are not moved: a view into a buffer of ours would be detached
silently by `.to(memory_format=...)` or `deepcopy`, and gradients kept in one would cost three passes to accumulate.
"""

import copy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import MaskError, SettingError
from sparselt.kernels._tensors import Siblings
from sparselt.kernels.masked_sgd import (
    PAD,
    block_table,
    blocks_in,
    first_overlap,
    is_dense,
    live_places,
    pack_mask,
    padded_offsets,
    unpack_mask,
)


class Arena:
    """Momentum and mask of `parameters`, whose memory it describes but does not own.

    momentum: float32 (float64 for float64 parameters), zero at first: [length], or with `live_momentum` one place for
    each live weight and at most 7 a block to spare. buffers: its part of each parameter, with the parameter's shape and
    strides; with `live_momentum`, flat. begun: uint8, 0 for each block whose momentum has not begun. mask, blocks: what
    `masked_sgd_` takes. offsets: where each part starts.
    Raises SettingError, naming the parameter, for one that no kernel serves, or that differs from the others.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        masks: Sequence[Tensor | None],
        live_momentum: bool = False,
    ):
        _check(parameters, names)
        self.parameters = list(parameters)
        self.live_momentum = live_momentum
        self._siblings = Siblings(self.parameters)
        self._shapes, self._strides = [p.shape for p in parameters], [p.stride() for p in parameters]
        self.device, self.dtype = parameters[0].device, parameters[0].dtype
        self.offsets, self._length = padded_offsets([p.numel() for p in self.parameters])
        self.begun = torch.zeros(self._length // PAD, dtype=torch.uint8, device=self.device)
        self.buffers: list[Tensor] = []
        self.set_masks(masks)

    def set_masks(self, masks: Sequence[Tensor | None]) -> None:
        """One bool tensor of the parameter's shape each, or None where every weight lives.

        Live momentum moves to `buffers` of the new mask, without that of weights which it masks; else zeroes nothing.
        """
        live = torch.zeros(self._length, dtype=torch.bool, device=self.device)
        for parameter, offset, mask in zip(self.parameters, self.offsets, masks, strict=True):
            part = live.as_strided(parameter.shape, parameter.stride(), offset)
            part.copy_(mask) if mask is not None else part.fill_(True)
        old = copy.copy(self)
        self.mask = pack_mask(live)
        self.blocks, places = block_table(live)
        if old.buffers and not self.live_momentum:
            return
        wide = torch.float64 if self.parameters[0].dtype == torch.float64 else torch.float32
        length = places if self.live_momentum else self._length
        self.momentum = torch.zeros(length, dtype=wide, device=self.device)
        if not self.live_momentum:
            self.buffers = [
                self.momentum.as_strided(p.shape, p.stride(), offset)
                for p, offset in zip(self.parameters, self.offsets, strict=True)
            ]
            return
        starts = [*self.blocks[:, 1].tolist(), length]
        rows = [self._rows(i) for i in range(len(self.parameters))]
        self.buffers = [self.momentum[starts[part.start] : starts[part.stop]] for part in rows]
        for i in range(len(old.buffers)):
            self.write(i, old.read(i))

    def read(self, i: int) -> Tensor:
        """The momentum of parameter i in its shape: a view, or with `live_momentum` a tensor of its own."""
        if not self.live_momentum:
            return self.buffers[i]
        flat, live, places = self._scattered(i)
        flat[live] = self.momentum[places]
        return self._shaped(flat, i)

    def write(self, i: int, momentum: Tensor) -> None:
        """Takes over the momentum of parameter i, of its shape; what the mask kills of live momentum is left out."""
        if not self.live_momentum:
            self.buffers[i].copy_(momentum)
            return
        flat, live, places = self._scattered(i)
        self._shaped(flat, i).copy_(momentum)
        self.momentum[places] = flat[live]

    @property
    def some_missing(self) -> bool:
        """Whether a gradient was None in the last call of `addresses`."""
        return self._siblings.some_missing

    def zero_masked(self, i: int, gone: Tensor) -> None:
        """Zeroes the momentum of weights that are `gone`; live momentum has none."""
        if not self.live_momentum:
            self.buffers[i].masked_fill_(gone, 0)

    def has_begun(self) -> list[bool]:
        """Whether each parameter has made a step with momentum. Waits for a GPU."""
        begun = self.begun.cpu()
        rows = [self._rows(i) for i in range(len(self.parameters))]
        return [part.start == part.stop or bool(begun[part.start]) for part in rows]

    def set_begun(self, i: int, begun: bool) -> None:
        """Says whether parameter i has momentum already, or begins anew with its next step."""
        self.begun[self._rows(i)] = int(begun)

    def fits(self) -> bool:
        """Whether every parameter still has the device, dtype, shape and strides it had."""
        return self.addresses([None] * len(self.parameters)) is not None

    def addresses(self, gradients: list[Tensor | None]) -> np.ndarray | None:
        """Of the parameters, then of the gradients, or None if any is not what its parameter was at first."""
        return self._siblings.addresses(gradients)

    def _rows(self, i: int) -> slice:
        """The blocks of parameter i. Of an empty one, none: its offset may be the next one's, or the end."""
        first = self.offsets[i] // PAD
        return slice(first, first + blocks_in(self._shapes[i].numel()))

    def _scattered(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros over the blocks of parameter i, which of them live, and the place of each of those in `momentum`."""
        rows = self._rows(i)
        scale = 1 if self.device.type == "cpu" else 8
        live = unpack_mask(self.mask[rows.start * PAD // scale : rows.stop * PAD // scale])
        flat = self.momentum.new_zeros((rows.stop - rows.start) * PAD)
        return flat, live, live_places(live, self.blocks[rows])

    def _shaped(self, flat: Tensor, i: int) -> Tensor:
        return flat.as_strided(self._shapes[i], self._strides[i])


def _check(parameters: Sequence[Tensor], names: Sequence[str]) -> None:
    first = parameters[0]
    for name, p in zip(names, parameters, strict=True):
        if p.device.type not in ("cpu", "cuda"):
            raise SettingError(f"{name} is on {p.device}: MaskedSGD runs on cpu and cuda")
        allowed = (torch.float32, torch.bfloat16) + ((torch.float64,) if p.device.type == "cpu" else ())
        if p.dtype not in allowed:
            raise SettingError(f"{name} is {p.dtype} on {p.device}: expected one of {', '.join(map(str, allowed))}")
        if (p.device, p.dtype) != (first.device, first.dtype):
            raise SettingError(
                f"{name} is {p.dtype} on {p.device}, but {names[0]} is {first.dtype} on {first.device}: "
                "give one optimizer parameters of one device and one dtype"
            )
        if p.layout != torch.strided or not is_dense(p):
            raise SettingError(
                f"{name} has shape {tuple(p.shape)} and strides {p.stride()}: its storage overlaps or has gaps; "
                "make it a contiguous copy of itself before building the optimizer"
            )
    if both := first_overlap(parameters):
        i, j = both
        raise SettingError(f"{names[i]} and {names[j]} share memory: give each a storage of its own, or pass one only")


def check_mask(mask: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor] | None) -> None:
    """MaskError, naming the layer, unless `mask` fits the parameters. parameters: by name; None: they have no names."""
    if mask is None:
        return
    if not isinstance(mask, Mapping):
        raise MaskError(f"mask is a {type(mask).__name__}: expected a sparselt.Mask, or bool tensors by parameter name")
    if parameters is None:
        raise MaskError("a mask goes by parameter names, and these have none: pass model.named_parameters()")
    for name, layer in mask.items():
        if name not in parameters:
            near = get_close_matches(name, parameters, n=1)
            hint = f"the nearest name is {near[0]!r}" if near else "is it the mask of another model?"
            raise MaskError(f"the mask has a layer {name!r}, which is no parameter of this optimizer; {hint}")
        if not isinstance(layer, Tensor) or layer.dtype != torch.bool:
            found = layer.dtype if isinstance(layer, Tensor) else type(layer).__name__
            raise MaskError(f"the mask of {name} is {found}: expected a bool tensor, True where a weight lives")
        if layer.shape != parameters[name].shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(layer.shape)}, the parameter {tuple(parameters[name].shape)}: "
                "is it the mask of another model?"
            )
