"""Networks as graphs of calls (torch.fx): finds operations that can be fused. CUDA graphs are in `captured`."""

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
# The result of these modules, functions and methods may share memory with an argument: a view, or the argument itself.
_MODULES_OF_VIEWS = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)
_VIEWS = {
    *("view", "view_as", "view_as_real", "real", "reshape", "reshape_as", "flatten", "unflatten", "ravel"),
    *("squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "unfold", "narrow", "select", "diagonal"),
    *("transpose", "permute", "movedim", "swapaxes", "swapdims", "t", "chunk", "split", "unbind", "getitem", "getattr"),
    *("as_strided", "detach", "contiguous", "to", "float", "type_as"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
}


class _Proxy(fx.Proxy):
    """Stands in for a tensor, and records operations in place as such. The loop below gives it their methods.

    The proxy of torch.fx records `x += y` as `x = x + y`, which other readers of x would not see.
    """


def _in_place(operation: Callable) -> Callable:
    def call(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return call


for _operation in _IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class Tracer(fx.Tracer):
    """Records every kind of convolution as one call, and operations in place as such.

    A graph does not show where the forward pass switches autocast or gradients on or off, as `with torch.no_grad()`
    does. So tracing such a network raises a TraceError, unless a subclass sets `may_switch`.
    """

    may_switch = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._outside = _autocast_and_gradients()
        return super().trace(root, concrete_args)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not self.may_switch and _autocast_and_gradients() != self._outside:
            raise fx.proxy.TraceError("a part of it switches autocast or gradients on or off")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def _autocast_and_gradients() -> tuple:
    """Whether gradients and inference mode are on, and what autocast does on each type of device."""
    casts = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), casts


def traced(model: nn.Module) -> fx.GraphModule:
    """The model as a graph of calls, with the modules of `model`. Constants that tracing meets are stored in it."""
    return graph_module(model, _trace(Tracer(), model))


def graph_module(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs the graph with the modules, parameters and buffers of the model.

    Buffers that the model leaves out of its state dict (`persistent=False`) are left out here, too; torch 2.11 alone
    would include them.
    """
    module = fx.GraphModule(model, graph)
    originals = dict(model.named_modules(remove_duplicate=False))
    for name, part in module.named_modules(remove_duplicate=False):
        if name in originals:
            part._non_persistent_buffers_set |= originals[name]._non_persistent_buffers_set & part._buffers.keys()
    return module


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


class _AutocastTracer(Tracer):
    """Collects in `cast_modules` the names of the modules that are called while autocast casts to bfloat16."""

    may_switch = True

    def __init__(self, device: str):
        super().__init__()
        self._device, self.cast_modules = device, set[str]()

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if torch.is_autocast_enabled(self._device) and torch.get_autocast_dtype(self._device) == torch.bfloat16:
            self.cast_modules.add(self.path_of_module(m))
        return super().call_module(m, forward, args, kwargs)


def called_once_and_cast(model: nn.Module, device: str, bfloat16: bool) -> tuple[dict[str, nn.Module], set[str]]:
    """Two facts about the modules of a training forward pass. Both are empty if it cannot be traced.

    bfloat16: whether the forward pass runs under autocast on this type of device.

    Returns:
        By name, the modules that are called exactly once, and whose parameters and buffers nothing else reads.
        The names of all modules that are called while autocast casts to bfloat16.
    """
    tracer = _AutocastTracer(device)
    try:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            nodes = list(_trace(tracer, copy.deepcopy(model).train()).nodes)
    except Exception:  # a forward pass may do anything to the stand-in for its input
        return {}, set()
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    return {
        name: modules[name] for name, count in calls.items() if count == 1 and name not in read
    }, tracer.cast_modules


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks. Some compute its weight, as those of `torch.nn.utils.prune` do."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def writes_to_shared(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an operation in place writes to a tensor with other readers, or has a result that nothing reads.

    A graph does not show that the other reader gets the new numbers. So no operation of such a network may be moved,
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
    """Whether nothing but `reader` reads `written`, or a tensor whose memory `written` shares."""
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
        return isinstance(modules.get(str(node.target)), _MODULES_OF_VIEWS)
    return (str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")) in _VIEWS


def erase_chain(graph: fx.Graph, first: fx.Node, last: fx.Node) -> None:
    """Erases the nodes from `first` to `last`. Each is the only reader of the one before it; nothing reads `last`."""
    while last is not first:
        before = last.all_input_nodes
        graph.erase_node(last)
        (last,) = [node for node in before if not node.users]
    graph.erase_node(first)


def fusable_after(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[fx.Node, fx.Node | None, bool]:
    """What can be fused with a node: an addition, its only reader, then a ReLU, the only reader of the sum.

    Either may be missing; without an addition, the ReLU is the only reader of the node itself.

    Returns the last of these nodes, the other term of the addition (None: no addition), and whether there is a ReLU.
    """
    last, other = node, None
    reader = only_reader(last)
    if reader is not None and (other := other_term(reader, last)) is not None:
        last, reader = reader, only_reader(reader)
    if reader is None or not is_relu(reader, modules):
        return last, other, False
    return reader, other, True


def only_reader(node: fx.Node) -> fx.Node | None:
    """The node that reads the result of `node`, if a single node reads it, and only once; otherwise None."""
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


def other_term(node: fx.Node, term: fx.Node) -> fx.Node | None:
    """The other term, if the node is the sum of `term` and one other node."""
    if node.op != "call_function" or node.target not in _ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    others = [other for other in node.args if other is not term]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None
