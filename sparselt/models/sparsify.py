"""Layers of your own network that compute their live weights alone, on a CPU: `sparsify_` and back, `densify_`."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparselt.errors import MaskError, SettingError
from sparselt.kernels.sparse_conv2d import Pattern, pattern_of, sparse_conv2d, sparse_linear
from sparselt.kernels.tiles import enter, leave
from sparselt.models.winograd import WinogradConv2d
from sparselt.weights import check_network, check_weights, names_among, split_over_ranks


def sparsify_(model: nn.Module, mask: Mapping[str, Tensor], *, up_to: float = 0.15) -> dict[str, str]:
    """Makes convolutions and linear layers compute the live weights of a mask alone, and sets the masked ones to 0.

    The layers stay the modules that they are, with their parameters, hooks and names, so optimizers, `state_dict` and
    `copy.deepcopy` work as before. What masked weights hold later does not count in these layers, and they get gradient
    0. Each layer converts its images to the layout of `sparselt.kernels.tiles` and back. After the mask or a layer has
    changed, call it again: layers that the new mask does not name become dense.

    Args:
        model: on the CPU. May be wrapped (`torch.compile`, DistributedDataParallel), see `Mask.named_as`.
        mask: bool by name of the weight, such as a `sparselt.Mask`.
        up_to: layers that are denser stay dense, in [0, 1]. `docs/sparse-cpu.md` says where it pays.

    Returns:
        The names of the weights under the mask whose layers stay dense, each with the reason.

    Raises:
        MaskError: the mask is not the model's, or is not bool; FSDP or tensor parallelism has split a weight.
        SettingError: a weight under the mask is computed from other tensors (a parametrization, torch.nn.utils.prune);
            the model is not a torch.nn.Module; `up_to` is not such a number.
    """
    _check_arguments(model, mask, up_to)
    owners: dict[int, list[nn.Module]] = {}
    names = dict(model.named_parameters(remove_duplicate=False))
    for layer in model.modules():
        if isinstance(weight := layer._parameters.get("weight"), Tensor):
            owners.setdefault(id(weight), []).append(layer)
    computed = {
        f"{name}.weight".removeprefix(".")
        for name, layer in model.named_modules()
        if "weight" not in layer._parameters and isinstance(getattr(layer, "weight", None), Tensor)
    }
    places = names_among(names.keys() | computed, mask)
    chosen: list[tuple[nn.Module, Pattern]] = []
    left = {}
    for name, live in mask.items():
        place = places.get(name, "")
        if place in computed or place.endswith(_HIDDEN):
            raise SettingError(
                f"{name} is computed from other tensors (a parametrization, weight normalization, "
                "torch.nn.utils.prune); remove that first"
            )
        if split := split_over_ranks(place or name, names):
            raise MaskError(split)
        _check(name, names.get(place), live)
        layers = owners.get(id(names[place]), [])
        density = float(live.float().mean()) if live.numel() else 1.0
        reason = "" if layers else "it is not the weight of a Conv2d or Linear layer"
        if reason := reason or next(filter(None, map(_reason_against, layers)), ""):
            left[name] = reason
        elif density > up_to:
            left[name] = f"its density is {density:.3g}, above up_to={up_to:g}"
        else:
            for layer in layers:
                stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
                chosen.append((layer, pattern_of(live, int(stride))))
    # From here on nothing fails, so a refused call changes nothing.
    densify_(model)
    with torch.no_grad():
        for name, live in mask.items():
            weight = names[places[name]]
            weight.masked_fill_(~live.to(weight.device), 0)
    for layer, pattern in chosen:
        vars(layer)["was_winograd"] = type(layer) is WinogradConv2d
        layer.__class__ = _SPARSE[type(layer)]
        cast(SparseConv2d | SparseLinear, layer).pattern = pattern
    return left


def densify_(model: nn.Module) -> None:
    """Undoes `sparsify_`: all layers compute all their weights again. SettingError if `model` is no network."""
    check_network(model)
    for layer in model.modules():
        _densify(layer)


class SparseConv2d(nn.Conv2d):
    """A convolution that computes its live weights alone. Made by `sparsify_`.

    pattern: the live weights.
    """

    pattern: Pattern

    def forward(self, input: Tensor) -> Tensor:
        """input: float [N, channels, H, W] or [channels, H, W], on the CPU."""
        _check_call(self, input, self.in_channels)
        if (self.stride, self.dilation, self.groups) != ((self.pattern.stride,) * 2, (1, 1), 1) or _padding(self) < 0:
            raise SettingError(f"{self} has changed since sparsify_; call sparsify_ with the model again")
        images = _autocast(input if input.dim() == 4 else input[None])
        out = sparse_conv2d(enter(images), self.weight, self.pattern, padding=_padding(self))
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)[:, None]
        last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        out = leave(out, len(images), last)
        return out if input.dim() == 4 else out[0]


class SparseLinear(nn.Linear):
    """A linear layer that computes its live weights alone. Made by `sparsify_`.

    pattern: the live weights.
    """

    pattern: Pattern

    def forward(self, input: Tensor) -> Tensor:
        """input: float [..., in], on the CPU."""
        _check_call(self, input, self.in_features)
        rows = _autocast(input.reshape(-1, self.in_features, 1, 1))
        out = sparse_linear(enter(rows), self.weight, self.pattern, self.bias)
        return leave(out, len(rows)).view(*input.shape[:-1], self.out_features)


def _autocast(input: Tensor) -> Tensor:
    """The input in bfloat16 where torch's layers would take it so."""
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return input.bfloat16() if wanted and input.dtype == torch.float32 else input


_SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: SparseConv2d,
    nn.Linear: SparseLinear,
    WinogradConv2d: SparseConv2d,
    SparseConv2d: SparseConv2d,
    SparseLinear: SparseLinear,
}
_DENSE: dict[type[nn.Module], type[nn.Module]] = {SparseConv2d: nn.Conv2d, SparseLinear: nn.Linear}


def _densify(layer: nn.Module) -> None:
    if type(layer) in _DENSE:
        layer.__class__ = WinogradConv2d if vars(layer).pop("was_winograd", False) else _DENSE[type(layer)]
        del layer.pattern


_HIDDEN = ("weight_orig", "weight_g", "weight_v", "weight.original", "weight.original0", "weight.original1")


def _check_arguments(model: nn.Module, mask: Mapping[str, Tensor], up_to: float) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise SettingError(f"model is a {type(model).__name__}; expected a torch.nn.Module that is not scripted")
    check_weights(mask, "the mask's layers")
    if isinstance(up_to, bool) or not isinstance(up_to, int | float) or not 0 <= up_to <= 1:
        raise SettingError(f"up_to is {up_to!r}; expected a density from 0 to 1")


def _check(name: str, weight: Tensor | None, live: Tensor) -> None:
    if weight is None:
        raise MaskError(f"mask layer {name!r} is not a weight of this model; was the mask made for another one?")
    if is_lazy(weight):
        raise SettingError(f"{name} has no shape yet; give the model a batch first")
    if weight.shape != live.shape:
        shapes = f"{tuple(live.shape)}, the weight {tuple(weight.shape)}"
        raise MaskError(f"mask layer {name!r} has shape {shapes}; expected equal shapes")
    if live.dtype != torch.bool:
        raise MaskError(f"mask layer {name!r} is {live.dtype}; expected torch.bool")
    if live.layout != torch.strided or live.is_meta:
        raise MaskError(f"mask layer {name!r} is {live.layout} on {live.device}; expected torch.strided with values")


def _check_call(layer: "SparseConv2d | SparseLinear", input: Tensor, expected: int) -> None:
    """Raises a SettingError for what a sparse layer cannot compute."""
    if layer.weight.dtype not in (torch.float32, torch.float64):
        raise SettingError(
            f"{layer} has {layer.weight.dtype} weights; a sparse layer computes with torch.float32: convert them back, "
            "or call densify_ first"
        )
    across, dims = (-3, (3, 4)) if isinstance(layer, nn.Conv2d) else (-1, range(1, 9))
    if input.dim() not in dims or input.shape[across] != expected:
        shape = "[N, {0}, H, W]" if across == -3 else "[..., {0}]"
        raise SettingError(f"{layer} got an input of shape {tuple(input.shape)}; expected {shape.format(expected)}")
    if torch.jit.is_tracing():
        raise SettingError("torch.jit.trace would fix the size of the batch; call densify_ first, or use torch.export")


def _reason_against(layer: nn.Module) -> str:
    """Why a layer cannot compute live weights alone; empty if it can."""
    if type(layer) not in _SPARSE:
        return f"a {type(layer).__name__} has no sparse form; expected Conv2d or Linear"
    if "forward" in vars(layer):
        return "its forward is replaced by another function, which would not see the change; call sparsify_ before that"
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.device.type != "cpu":
        return f"it is on {weight.device}; expected the CPU"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"it is {weight.dtype}; expected torch.float32"
    if not isinstance(layer, nn.Conv2d):
        return ""
    if layer.groups != 1 or layer.dilation != (1, 1):
        return f"it has groups={layer.groups}, dilation={layer.dilation}; expected 1"
    if layer.stride[0] != layer.stride[1]:
        return f"its stride is {layer.stride}; expected one number"
    if _padding(layer) < 0:
        return f"its padding is {layer.padding!r}, {layer.padding_mode}; expected one number of zeros on every side"
    return ""


def _padding(layer: nn.Conv2d) -> int:
    """The zeros on every side of the image; -1 if they differ or are no zeros."""
    given: str | tuple[int, ...] = layer.padding
    if given == "valid":
        return 0
    if isinstance(given, str):  # "same", which torch allows for stride 1 only
        given = tuple((size - 1) // 2 if size % 2 else -1 for size in layer.kernel_size)
    first, second = given
    return int(first) if first == second and layer.padding_mode == "zeros" else -1
