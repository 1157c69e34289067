"""Networks as graphs of calls: finds operations that can be fused."""

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu, torch.relu_)
_IN_PLACE = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod),
    *(operator.ipow, operator.iand, operator.ior, operator.ixor, operator.imatmul),
)
_SHARING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)
_VIEWS = {"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "expand"}
_VIEWS |= {
    "expand_as",
    "broadcast_to",
    "transpose",
    "permute",
    "movedim",
    "swapaxes",
    "swapdims",
    "t",
    "getitem",
    "diagonal",
}
_VIEWS |= {"detach", "chunk", "split", "unbind", "narrow", "select", "contiguous", "to", "float", "type_as", "getattr"}
_VIEWS |= {
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "unfold",
    "as_strided",
    "view_as_real",
    "real",
}


class _Proxy(fx.Proxy):
    """Stands in for a tensor; fx's own takes `x += y` for `x = x + y`, which other readers of x would not see."""


def _in_place(operation: Callable) -> Callable:
    def call(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return call


for _operation in _IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class Tracer(fx.Tracer):
    """Sees every kind of convolution as one call, and operations in place as such.

    A graph does not show where the forward pass switches autocast or gradients, as `with torch.no_grad()` does. Tracing
    such a network raises a TraceError.
    """

    may_switch = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._outside = _switches()
        return super().trace(root, concrete_args)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not self.may_switch and _switches() != self._outside:
            raise fx.proxy.TraceError("a part of it switches autocast or gradients on or off")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def _switches() -> tuple:
    """Whether gradients are on, and what autocast does."""
    casts = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), casts


def traced(model: nn.Module) -> fx.GraphModule:
    """The model as a graph of calls, with the modules of `model`. Constants that tracing meets are stored in it."""
    return fx.GraphModule(model, _trace(Tracer(), model))


def _trace(tracer: Tracer, model: nn.Module) -> fx.Graph:
    graph = tracer.trace(model)
    tracer.root = nn.Module()  # a tracer refers to itself, and would keep the weights until the next garbage collection
    return graph


def without_cycle(module: fx.GraphModule) -> fx.GraphModule:
    """The module, freed with its weights as soon as nothing refers to it. Its graph cannot be changed any more.

    Otherwise the module and its graph refer to each other, and its weights wait for the garbage collector, which counts
    objects and not their bytes.
    """
    module.graph.owning_module = None
    return module


class _Calls(Tracer):
    """Notes the modules that are called while autocast casts to bfloat16."""

    may_switch = True

    def __init__(self, device: str):
        super().__init__()
        self._device, self.cast = device, set[str]()

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if torch.is_autocast_enabled(self._device) and torch.get_autocast_dtype(self._device) == torch.bfloat16:
            self.cast.add(self.path_of_module(m))
        return super().call_module(m, forward, args, kwargs)


def called_once(model: nn.Module, device: str, bfloat16: bool) -> tuple[dict[str, nn.Module], set[str]]:
    """The modules that a training forward pass calls exactly once, and whose parameters and buffers nothing else reads.

    By name; then the names of all modules that are called while autocast casts to bfloat16. Empty if the forward pass
    cannot be traced. bfloat16: whether it runs under autocast on this type of device.
    """
    tracer = _Calls(device)
    try:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            nodes = list(_trace(tracer, copy.deepcopy(model).train()).nodes)
    except Exception:  # a forward pass may do anything to the stand-in for its input
        return {}, set()
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    return {name: modules[name] for name, count in calls.items() if count == 1 and name not in read}, tracer.cast


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks. Some compute its weight, as those of `torch.nn.utils.prune` do."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def writes_to_shared(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an operation in place writes to a tensor that something else reads too, or nothing reads its result.

    A graph does not show that the other reader gets the new numbers, so no operation of such a network may be moved,
    replaced or left out.
    """
    for node in graph.nodes:
        written = _written(node, modules)
        if written is not None and not (node.users and _only_reader_of_memory(written, node, modules)):
            return True
    return False


def _written(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """The tensor that an operation in place overwrites; None for other operations."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = node.kwargs.get("inplace", False) or (name.endswith("_") and not name.endswith("__"))
    if node.op == "call_module":
        in_place = getattr(modules.get(str(node.target)), "inplace", False)
    elif node.target in _IN_PLACE:
        in_place = True
    written = node.kwargs.get("out") or (node.all_input_nodes[0] if in_place and node.all_input_nodes else None)
    return written if isinstance(written, fx.Node) else None


def _only_reader_of_memory(written: fx.Node, reader: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether nothing but `reader` reads a tensor, or one whose memory it shares."""
    while written.op not in ("placeholder", "get_attr") and set(written.users) == {reader}:
        if not _shares_memory(written, modules):
            return True
        reader, written = written, written.all_input_nodes[0]
    return False


def _shares_memory(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the result may be a view of an argument, or the argument itself."""
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), _SHARING)
    return (str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")) in _VIEWS


def erase_chain(graph: fx.Graph, first: fx.Node, last: fx.Node) -> None:
    """Erases the nodes from `first` to `last`, each the only reader of the one before. Nothing reads `last` now."""
    while last is not first:
        before = last.all_input_nodes
        graph.erase_node(last)
        (last,) = [node for node in before if not node.users]
    graph.erase_node(first)


def followed_by(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[fx.Node, fx.Node | None, bool]:
    """What can be fused with a node: an addition that alone reads it, and a ReLU that alone reads the sum, or the node.

    Returns the last of these nodes, the other term of the addition (None: no addition), and whether there is a ReLU.
    """
    last, other = node, None
    reader = only_reader(last)
    if reader is not None and (other := added_to(reader, last)) is not None:
        last, reader = reader, only_reader(reader)
    if reader is None or not is_relu(reader, modules):
        return last, other, False
    return reader, other, True


def only_reader(node: fx.Node) -> fx.Node | None:
    """The node that reads the result, if there is one only, and it reads it once."""
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    return reader if reader.all_input_nodes.count(node) == 1 else None


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the node is a ReLU: a function, a method, or a module without hooks."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module) is nn.ReLU and not has_hooks(module)
    return (node.op == "call_function" and node.target in _RELUS) or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )


def added_to(node: fx.Node, term: fx.Node) -> fx.Node | None:
    """The other term, if the node is the sum of `term` and one other node."""
    if node.op != "call_function" or node.target not in _ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    others = [other for other in node.args if other is not term]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None
