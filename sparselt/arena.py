"""Flat memory for what the optimizer owns, so that one launch serves a whole network.

Momentum and mask of all parameters lie in two flat buffers, each parameter's part padded to whole blocks and in the
physical order of its memory. Parameters and gradients are not moved: a view into a buffer of ours would be detached
silently by `.to(memory_format=...)` or `deepcopy`, and gradients kept in one would cost three passes to accumulate.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from sparselt.errors import MaskError, SettingError
from sparselt.kernels.masked_sgd import is_dense, pack_mask, padded_offsets


class Arena:
    """Momentum and mask of `parameters`, whose memory it describes but does not own.

    momentum: [length], float32 (float64 for float64 parameters), zero at first. buffers: its part of each parameter,
    with the parameter's shape and strides. mask: what `masked_sgd_` takes. offsets: where each part starts.
    Raises SettingError, naming the parameter, for one that no kernel serves, or that differs from the others.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str], masks: Sequence[Tensor | None]):
        _check(parameters, names)
        self.parameters = list(parameters)
        self._addresses = list(map(Tensor.data_ptr, self.parameters))
        self._kinds, self._shapes = _kinds(self.parameters), _shapes(self.parameters)
        self.strides, self.dtypes = self._kinds
        self.device = parameters[0].device
        self.offsets, length = padded_offsets([p.numel() for p in self.parameters])
        wide = torch.float64 if parameters[0].dtype == torch.float64 else torch.float32
        self.momentum = torch.zeros(length, dtype=wide, device=self.device)
        self.buffers = [
            self.momentum.as_strided(p.shape, p.stride(), offset)
            for p, offset in zip(self.parameters, self.offsets, strict=True)
        ]
        self.set_masks(masks)

    def set_masks(self, masks: Sequence[Tensor | None]) -> None:
        """One bool tensor of the parameter's shape each, or None where every weight lives. Zeroes nothing."""
        live = torch.zeros(len(self.momentum), dtype=torch.bool, device=self.device)
        for parameter, offset, mask in zip(self.parameters, self.offsets, masks, strict=True):
            part = live.as_strided(parameter.shape, parameter.stride(), offset)
            part.copy_(mask) if mask is not None else part.fill_(True)
        self.mask = pack_mask(live)

    def fits(self) -> bool:
        """Whether every parameter still has the device, dtype, shape and strides it had."""
        addresses = list(map(Tensor.data_ptr, self.parameters))
        if addresses != self._addresses:
            if _shapes(self.parameters) != self._shapes:
                return False
            self._addresses = addresses
        return _kinds(self.parameters) == self._kinds


def _kinds(parameters: list[Tensor]) -> tuple:
    # This runs in every step. Of all ways to ask a tensor, map with an unbound method is the fastest.
    return list(map(Tensor.stride, parameters)), [p.dtype for p in parameters]


def _shapes(parameters: list[Tensor]) -> tuple:
    # Slow to ask, and no tensor gets another shape or device without another address, or else other strides.
    return [p.shape for p in parameters], [p.device for p in parameters]


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
