"""Layers of your own network that compute their live weights alone, on a CPU: `sparsify_` and back, `densify_`."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from sparselt.errors import MaskError, SettingError
from sparselt.kernels.sparse_conv2d import Pattern, pattern_of, sparse_conv2d, sparse_linear
from sparselt.kernels.tiles import enter, leave
from sparselt.weights import check_weights, names_among


def sparsify_(model: nn.Module, mask: Mapping[str, Tensor], *, up_to: float = 0.15) -> dict[str, str]:
    """Makes the convolutions and linear layers under a mask compute their live weights alone.

    The layers stay the modules that they are, with their parameters, hooks and names, so optimizers, `state_dict` and
    `copy.deepcopy` work as before. Masked weights count as 0, whatever they hold, and get gradient 0. Each layer
    converts its images to the layout of `sparselt.kernels.tiles` and back. After the mask has changed, call it again.

    Args:
        model: on the CPU. May be wrapped (`torch.compile`, DistributedDataParallel), see `Mask.named_as`.
        mask: bool by name of the weight, such as a `sparselt.Mask`.
        up_to: layers that are denser stay dense. `docs/sparse-cpu.md` says where it pays.

    Returns:
        The names of the weights under the mask whose layers stay dense, each with the reason.

    Raises:
        MaskError: the mask is not the model's, or is not bool.
        SettingError: a weight under the mask is computed from other tensors (a parametrization, torch.nn.utils.prune).
    """
    check_weights(mask, "the mask's layers")
    weighted = (
        (name, layer) for name, layer in model.named_modules() if isinstance(getattr(layer, "weight", None), Tensor)
    )
    layers = {f"{name}.weight".removeprefix("."): layer for name, layer in weighted}
    places = names_among(layers, mask)
    lists: dict[str, Pattern] = {}
    left = {}
    for name, live in mask.items():
        layer = layers.get(places.get(name, ""))
        _check(name, layer, live)
        assert layer is not None
        density = float(live.float().mean())
        if reason := _reason_against(layer):
            left[name] = reason
        elif density > up_to:
            left[name] = f"its density is {density:.3g}, above up_to={up_to:g}"
        else:
            lists[name] = pattern_of(live, layer.stride[0] if isinstance(layer, nn.Conv2d) else 1)
    for name in mask:  # after all checks, so that a refused call changes nothing
        layer = layers[places[name]]
        if name in lists:
            layer.__class__ = _SPARSE[type(layer)]
            cast(SparseConv2d | SparseLinear, layer).pattern = lists[name]
        else:
            _densify(layer)
    return left


def densify_(model: nn.Module) -> None:
    """Undoes `sparsify_`: all layers compute all their weights again."""
    for layer in model.modules():
        _densify(layer)


class SparseConv2d(nn.Conv2d):
    """A convolution that computes its live weights alone. Made by `sparsify_`.

    pattern: the live weights.
    """

    pattern: Pattern

    def forward(self, input: Tensor) -> Tensor:
        """input: float [N, channels, H, W] or [channels, H, W], on the CPU."""
        images = input if input.dim() == 4 else input[None]
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
        rows = input.reshape(-1, self.in_features, 1, 1)
        out = sparse_linear(enter(rows), self.weight, self.pattern, self.bias)
        return leave(out, len(rows)).view(*input.shape[:-1], self.out_features)


_SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: SparseConv2d,
    nn.Linear: SparseLinear,
    SparseConv2d: SparseConv2d,
    SparseLinear: SparseLinear,
}
_DENSE: dict[type[nn.Module], type[nn.Module]] = {SparseConv2d: nn.Conv2d, SparseLinear: nn.Linear}


def _densify(layer: nn.Module) -> None:
    if type(layer) in _DENSE:
        layer.__class__ = _DENSE[type(layer)]
        del layer.pattern


def _check(name: str, layer: nn.Module | None, live: Tensor) -> None:
    if layer is None:
        raise MaskError(f"mask layer {name!r} is not a weight of this model; was the mask made for another one?")
    weight = layer._parameters.get("weight")
    if weight is None:
        raise SettingError(
            f"{name} is computed from other tensors (a parametrization, weight normalization, torch.nn.utils.prune); "
            "remove that first"
        )
    if weight.shape != live.shape:
        shapes = f"{tuple(live.shape)}, the weight {tuple(weight.shape)}"
        raise MaskError(f"mask layer {name!r} has shape {shapes}; expected equal shapes")
    if live.dtype != torch.bool:
        raise MaskError(f"mask layer {name!r} is {live.dtype}; expected torch.bool")


def _reason_against(layer: nn.Module) -> str:
    """Why a layer cannot compute live weights alone; empty if it can."""
    if type(layer) not in _SPARSE:
        return f"a {type(layer).__name__} has no sparse form; expected Conv2d or Linear"
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
