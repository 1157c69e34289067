"""Folds batch norms into the convolutions before them, for evaluation: the same function in half the passes."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from sparselt.training.fused_convolution import fuse_convolutions_
from sparselt.training.fx_graphs import graph_module, traced, without_cycle, writes_to_shared


class Folded:
    """Evaluates networks of one architecture without their batch norms.

    In eval mode a norm is a factor and a shift for each channel. It is folded if it directly follows a convolution
    whose output nothing else reads. `module` is the network without these norms, and with its convolutions fused with
    what follows them (`fuse_convolutions_`); `load` gives it a network's weights.
    Some networks are evaluated as they are: if they cannot be traced, if nothing can be folded, if the forward pass
    reads tensors outside the state dict (plain attributes, tensors made on the way), or if it writes in place to a
    tensor that something else reads.

    float32 outputs agree with the network's to about 1e-5 of their size, other dtypes to their rounding.

    Args:
        model: a network of the architecture, left as it is. Its memory layout, device and dtype are kept.
    """

    def __init__(self, model: nn.Module):
        self._pairs: dict[str, tuple[str, float]] = {}  # convolution: its norm, and that norm's eps
        graph = _traced(model)
        self.module = (_copy(model) if graph is None else self._fold(graph)).eval()

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Loads a state dict of the network into `module`, and returns it."""
        folded = self._fold_state(state, torch.mul)
        for name, tensor in self.module.state_dict().items():
            tensor.copy_(folded[name])
        return self.module

    @torch.no_grad()
    def fold_(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states of `module` from those of K networks ([K, ...] each). Overwrites their convolutions."""
        return self._fold_state(rows, Tensor.mul_)

    def _fold_state(
        self, state: Mapping[str, Tensor], multiply: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        folded = dict(state)
        for conv, (norm, eps) in self._pairs.items():
            factor = (state[f"{norm}.running_var"] + eps).rsqrt_()
            if f"{norm}.weight" in state:
                factor *= state[f"{norm}.weight"]
            shift = -state[f"{norm}.running_mean"]
            if f"{conv}.bias" in state:
                shift += state[f"{conv}.bias"]
            shift *= factor
            if f"{norm}.bias" in state:
                shift += state[f"{norm}.bias"]
            folded[f"{conv}.weight"] = multiply(state[f"{conv}.weight"], factor[..., None, None, None])
            folded[f"{conv}.bias"] = shift
        return folded

    def _fold(self, network: fx.GraphModule) -> fx.GraphModule:
        modules = dict(network.named_modules())
        read = {str(node.target).rpartition(".")[0] for node in network.graph.nodes if node.op == "get_attr"}
        owners = Counter(id(parameter) for _, parameter in network.named_parameters(remove_duplicate=False))
        calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
        for node in list(network.graph.nodes):
            before = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
            if before is None or len(before.users) > 1 or not (node.op == before.op == "call_module"):
                continue
            if calls[node.target] > 1 or calls[before.target] > 1 or before.target in read:
                continue
            norm, conv = modules[node.target], modules[before.target]
            if not (type(norm) is nn.BatchNorm2d and norm.track_running_stats and isinstance(conv, nn.Conv2d)):
                continue
            # Two convolutions that share a weight would need two different foldings of it.
            if all(owners[id(parameter)] == 1 for parameter in conv.parameters()):
                self._pairs[str(before.target)] = (str(node.target), norm.eps)
                node.replace_all_uses_with(before)
                network.graph.erase_node(node)
        module = graph_module(network, network.graph)
        for conv in self._pairs:
            convolution = module.get_submodule(conv)
            if convolution.bias is None:
                weight = convolution.weight
                bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
                convolution.bias = nn.Parameter(bias, requires_grad=False)
        fuse_convolutions_(module)
        return without_cycle(module)


def _traced(model: nn.Module) -> fx.GraphModule | None:
    """A copy of the model as a graph in eval mode; None if `Folded` cannot use it."""
    # Trace a copy, because tracing stores the constants that it meets in the traced module.
    model = _copy(model).eval()
    names = set(model.state_dict())
    try:
        graph = traced(model)
    except Exception:  # a forward pass may do anything to the stand-in for its input; a true fault raises again
        return None
    if writes_to_shared(graph.graph, dict(graph.named_modules())):
        return None
    return graph if graph.state_dict().keys() <= names else None


def _copy(module: nn.Module) -> nn.Module:
    """A copy with its own weights, which need no gradient."""
    return copy.deepcopy(module).requires_grad_(False)
