"""Batch norm, addition and ReLU as one operation in training, see `sparselt.kernels.norm_act`."""

import copy
from collections import Counter
from functools import partial

from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparselt.errors import SettingError
from sparselt.kernels.norm_act import norm_act
from sparselt.training.fx_graphs import Tracer, erase_chain, fusable_after, has_hooks, writes_to_shared


def fused_forward(model: nn.Module) -> fx.GraphModule:
    """The training forward pass of a network, with its batch norms fused with what follows them.

    A norm is fused with the addition after it and the ReLU after that, where nothing else reads what lies between. What
    has hooks stays as it is.
    Parameters and buffers are those of the network, whose own `forward` stays as it was. Results differ by rounding.

    It is traced in training mode, so that a dropout in it stays on. A call while the network, or this forward pass, is
    in eval mode raises a SettingError; single norms may be frozen. It takes images in channels last.

    Raises:
        SettingError: the network has no batch norm with weight and bias, or its forward pass cannot be traced, or
            writes in place to what something else reads.
    """
    name = type(model).__name__
    try:
        # Of a copy, because tracing stores the constants that it meets in the traced module.
        traced = fx.GraphModule(model, Tracer().trace(copy.deepcopy(model).train()))
    except Exception as error:  # a forward pass may do anything to the stand-in for its input
        raise SettingError(f"fused_norm: {name} cannot be traced: {error}") from error
    modules = dict(model.named_modules())
    if writes_to_shared(traced.graph, modules):
        raise SettingError(f"fused_norm: {name} writes in place to a tensor that something else reads")
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    fused = 0
    for node in list(traced.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" and calls[node.target] == 1 else None
        if type(norm) is nn.BatchNorm2d and norm.affine and norm.momentum is not None and not has_hooks(norm):
            _fuse(traced, node, norm, modules)
            fused += 1
    if not fused:
        raise SettingError(f"fused_norm: {name} has no batch norm that is called once, with weight, bias and momentum")
    traced.recompile()
    traced.training = True
    traced.register_forward_pre_hook(partial(_refuse_eval, model))
    return traced


def _refuse_eval(model: nn.Module, traced: nn.Module, images: object) -> None:
    if not (model.training and traced.training):
        name = type(model).__name__
        raise SettingError(
            f"the fused forward pass of {name} is one of training, and {name} is in eval mode: evaluate with the "
            "network itself, or call its train() first"
        )


class FusedNorm(nn.Module):
    """A `BatchNorm2d` with an addition and ReLU. In eval mode, as a frozen norm is, torch's own operations run."""

    norm: nn.BatchNorm2d

    def __init__(self, norm: nn.BatchNorm2d, relu: bool):
        super().__init__()
        self.relu = relu
        self.__dict__["norm"] = norm  # not as a submodule: parameters and buffers keep the names that they have

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        norm = self.norm
        if not norm.training:
            out = norm(x) if residual is None else norm(x) + residual
            return F.relu(out) if self.relu else out
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        arguments = x, norm.weight, norm.bias, norm.running_mean, norm.running_var
        momentum = 0.1 if norm.momentum is None else norm.momentum
        if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):  # it is broadcast or cast
            out = norm_act(*arguments, relu=False, momentum=momentum, eps=norm.eps) + residual
            return F.relu(out) if self.relu else out
        return norm_act(*arguments, residual=residual, relu=self.relu, momentum=momentum, eps=norm.eps)


def _fuse(traced: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d, modules: dict[str, nn.Module]) -> None:
    """Replaces a norm, and an addition and a ReLU after it, by one module."""
    last, residual, relu = fusable_after(node, modules)
    name = f"{str(node.target).replace('.', '_')}_fused"
    while hasattr(traced, name):
        name += "_"
    traced.add_submodule(name, FusedNorm(norm, relu))
    with traced.graph.inserting_before(last):
        arguments = (node.args[0],) if residual is None else (node.args[0], residual)
        last.replace_all_uses_with(traced.graph.call_module(name, arguments))
    erase_chain(traced.graph, node, last)
