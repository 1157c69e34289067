"""Batch norm, addition and ReLU as one operation in training, see `sparselt.kernels.norm_act`."""

import copy

from torch import Tensor, fx, nn

from sparselt.errors import SettingError
from sparselt.kernels.norm_act import norm_act
from sparselt.training.graphs import Tracer, followed_by, has_hooks


def fused_forward(model: nn.Module) -> fx.GraphModule:
    """The training forward pass of a network, with its batch norms fused with what follows them.

    A norm is fused with the addition after it and the ReLU after that, where nothing else reads what lies between. What
    has hooks stays as it is.
    Parameters and buffers are those of the network, whose own `forward` stays as it was. Results differ by rounding.

    Raises:
        SettingError: the network has no batch norm with weight and bias, or its forward pass cannot be traced.
    """
    try:
        # Of a copy, because tracing stores the constants that it meets in the traced module.
        traced = fx.GraphModule(model, Tracer().trace(copy.deepcopy(model).train()))
    except Exception as error:  # a forward pass may do anything to the stand-in for its input
        raise SettingError(
            f"fused_norm is true, but {type(model).__name__} cannot be traced: {error}; set fused_norm=false"
        ) from error
    modules = dict(model.named_modules())
    fused = 0
    for node in list(traced.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(norm) is nn.BatchNorm2d and norm.affine and norm.momentum is not None and not has_hooks(norm):
            _fuse(traced, node, norm, modules)
            fused += 1
    if not fused:
        raise SettingError(
            f"fused_norm is true, but {type(model).__name__} has no batch norm with weight and bias; "
            "set fused_norm=false"
        )
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


class FusedNorm(nn.Module):
    """A `BatchNorm2d` in training, with an addition and ReLU. It always normalizes by the batch."""

    def __init__(self, norm: nn.BatchNorm2d, relu: bool):
        super().__init__()
        self.norm, self.relu = norm, relu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        norm = self.norm
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return norm_act(
            x,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            residual=residual,
            relu=self.relu,
            momentum=0.1 if norm.momentum is None else norm.momentum,
            eps=norm.eps,
        )


def _fuse(traced: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d, modules: dict[str, nn.Module]) -> None:
    """Replaces a norm, and an addition and a ReLU after it, by one module."""
    last, residual, relu = followed_by(node, modules)
    name = f"{str(node.target).replace('.', '_')}_fused"
    traced.add_submodule(name, FusedNorm(norm, relu))
    with traced.graph.inserting_before(last):
        arguments = (node.args[0],) if residual is None else (node.args[0], residual)
        last.replace_all_uses_with(traced.graph.call_module(name, arguments))
