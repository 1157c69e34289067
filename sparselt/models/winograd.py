"""Convolutions of a network by Winograd's algorithm, on a CPU: `winograd_`."""

from typing import cast

import torch
from torch import Tensor, fx, nn
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad

from sparselt.kernels.winograd import CHANNELS, pays, unsupported_reason, winograd_conv2d
from sparselt.weights import check_network


def winograd_(model: nn.Module, enabled: bool = True) -> list[str]:
    """Makes 3×3 convolutions of stride 1 take `sparselt.kernels.winograd` where that pays, in training and evaluation.

    That is on a CPU in float32, from 32 channels on also under bfloat16 autocast, for multiples of 16 channels
    (`sparselt.kernels.winograd.pays` has the shapes); elsewhere they compute as before. Results differ by rounding. The
    layers stay the modules that they are, with their parameters, hooks and names.

    Args:
        model: any network. Layers of subclasses of `torch.nn.Conv2d`, those with groups, dilation or other padding, and
            those that `sparsify_` has made sparse stay as they are.
        enabled: False: undo it. torch.export with a batch of any size, torch.onnx.export, torch.jit.script, FLOP
            counters and `torch.compile(torch.func.grad(…), fullgraph=True)` need that. It does not reach layers that
            have been parametrized since (such as by `weight_norm`).

    Returns:
        The names of the layers that may take it. SettingError if `model` is no network.
    """
    check_network(model)
    names = []
    for name, layer in model.named_modules():
        if enabled and type(layer) is nn.Conv2d and fits(layer):
            layer.__class__ = WinogradConv2d
        elif not enabled and type(layer) is WinogradConv2d:
            cast(nn.Module, layer).__class__ = nn.Conv2d
        elif not enabled:
            vars(layer).pop("was_winograd", None)  # one that `sparsify_` has made sparse
        if type(layer) is WinogradConv2d:
            names.append(name)
    return names


class WinogradConv2d(nn.Conv2d):
    """A convolution by Winograd's algorithm where it pays. Made by `winograd_`."""

    def forward(self, input: Tensor) -> Tensor:
        """input: [N, channels, H, W] or [channels, H, W]."""
        plain = _transformed(input, self.weight, self.bias) or not fits(self)
        out = None if plain else by_winograd(input, self.weight, self.bias)
        return super().forward(input) if out is None else out


def by_winograd(
    input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None, relu: bool = False
) -> Tensor | None:
    """`winograd_conv2d` of a batch, or None where that does not pay or is not possible."""
    if input.dim() != 4 or input.device.type != "cpu" or input.dtype not in (torch.float32, torch.bfloat16):
        return None
    if torch.is_autocast_enabled("cpu"):
        input = input.to(torch.get_autocast_dtype("cpu"))
    elif input.dtype != weight.dtype:
        return None  # torch refuses it
    if input.dtype == torch.float16 or not pays(input, weight):
        return None
    last = input.contiguous(memory_format=torch.channels_last)
    if unsupported_reason(last, weight, bias, residual):
        return None
    out = winograd_conv2d(last, weight, bias, residual=residual, relu=relu)
    # As torch: the output is in channels last if the strides of the input or of the weight are in that order.
    in_order = last is input or torch.channels_last in map(suggest_memory_format, (input, weight))
    return out if in_order else out.contiguous()


def _transformed(*tensors: Tensor | None) -> bool:
    """Whether torch.func, forward-mode derivatives or torch.fx are at work, which know torch's operations alone."""
    if forward_ad._current_level >= 0:
        return True
    if torch.compiler.is_compiling():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if any(isinstance(tensor, fx.Proxy) for tensor in given):
        return True
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in given)


def fits(layer: nn.Conv2d) -> bool:
    """Whether a layer is a convolution of this kind, whatever it is given."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding in ((1, 1), "same")
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and not layer.in_channels % CHANNELS
        and not layer.out_channels % CHANNELS
    )
