"""Convolution, addition and ReLU in one call of oneDNN or cuDNN, for evaluation."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparselt.models.winograd import WinogradConv2d, by_winograd, fits
from sparselt.training.fx_graphs import erase_chain, fusable_after, has_hooks

Pair = Sequence[int]


def fuse_convolutions_(traced: fx.GraphModule) -> None:
    """Replaces each convolution and the ReLU after it by one call of `convolution_relu`, with an addition between them.

    A convolution that has hooks, or whose output something else reads, stays as it is. Weights and biases keep their
    names.

    traced: for evaluation, without gradients.
    """
    graph, modules = traced.graph, dict(traced.named_modules())
    for node in list(graph.nodes):
        conv = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, WinogradConv2d):
            continue
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        last, residual, relu = fusable_after(node, modules)
        if not relu or has_hooks(conv):
            continue
        with graph.inserting_before(last):
            weight = graph.get_attr(f"{node.target}.weight")
            bias = None if conv.bias is None else graph.get_attr(f"{node.target}.bias")
            winograd = type(conv) is WinogradConv2d and fits(conv)
            how = conv.stride, conv.padding, conv.dilation, conv.groups, winograd
            last.replace_all_uses_with(
                graph.call_function(convolution_relu, (node.args[0], weight, bias, residual, *how))
            )
        erase_chain(graph, node, last)
    traced.recompile()


def convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    winograd: bool = False,
) -> Tensor:
    """max(0, convolution + residual), without gradient.

    winograd: the layer is a `WinogradConv2d`.

    In bfloat16 on a CPU one call of oneDNN, which rounds once; on a GPU one of cuDNN (not run on one yet). In float32
    on a CPU one call would be no faster, so torch's own calls are made, in place.
    """
    if winograd and (made := by_winograd(x, weight, bias, residual, relu=True)) is not None:
        return made
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    fits = residual is None or residual.dtype == x.dtype
    if fits and x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
        return _by_onednn(x, weight, bias, residual, stride, padding, dilation, groups)
    if fits and x.is_cuda:
        kind = (x.dtype, weight.shape, *map(tuple, (stride, padding, dilation)), groups, residual is None)
        try:
            if kind not in _refused:
                return _by_cudnn(x, weight, bias, residual, stride, padding, dilation, groups)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _note_refusal(kind, error)
    out = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if residual is None:
        return F.relu_(out)
    return F.relu_(out.add_(residual)) if fits else F.relu(out + residual)


def _by_onednn(x, weight, bias, residual, stride, padding, dilation, groups) -> Tensor:
    call, how = torch.ops.mkldnn._convolution_pointwise, (padding, stride, dilation, groups)
    if residual is None:
        return call(x, weight, bias, *how, "relu", [], None)
    return call.binary(x, residual, weight, bias, *how, "add", 1.0, "relu", [], None)


_refused: set[tuple] = set()  # kinds of convolutions that cuDNN does not fuse with a ReLU


def _by_cudnn(x, weight, bias, residual, stride, padding, dilation, groups) -> Tensor:
    how = stride, padding, dilation, groups
    if residual is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *how)
    return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *how)


def _note_refusal(kind: tuple, error: RuntimeError) -> None:
    if not _refused:
        print(
            f"evaluation calls some convolutions and ReLUs apart, for cuDNN refused both at once: {error}",
            file=sys.stderr,
        )
    _refused.add(kind)
