"""Weights by name: the prunable ones of a network, and the check of weights that users pass."""

import warnings
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparselt.errors import SettingError


def prunable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and weight of every convolution and fully connected layer, shortcuts and classifier included.

    The projections of `nn.MultiheadAttention` are fully connected layers, and so is the `Conv1D` of Hugging Face's
    GPT-2. Biases, normalization parameters and embeddings are not prunable (the first two as in Frankle et al. 2019 and
    Paul et al. 2022), nor is a layer with the attribute `prunable = False`, by which a network keeps it dense. A weight
    that two layers share is yielded once, under its first name.

    Warns of layers that it leaves out: those whose weight is computed from other tensors, by a parametrization, weight
    normalization or `torch.nn.utils.prune`; and other layers with a matrix called `weight…`, such as an LSTM.

    Raises:
        SettingError: `model` is no network, or a lazy layer of it has no weights yet.
    """
    check_network(model)
    weights: set[int] = set()
    hidden: list[str] = []
    others: list[tuple[str, nn.Parameter]] = []
    for name, layer in model.named_modules():
        others += [(f"{name}.{w} ({type(layer).__name__})".removeprefix("."), p) for w, p in _other_matrices(layer)]
        for weight in _names_of_weights(layer) if getattr(layer, "prunable", True) else ():
            found = layer._parameters.get(weight)
            if found is not None:
                weights.add(id(found))
            elif getattr(layer, weight, None) is not None:
                hidden.append(f"{name}.{weight}".removeprefix("."))
    if hidden:
        warnings.warn(
            f"{_first(hidden)} cannot be pruned, because it is computed from other tensors (a "
            "parametrization, weight normalization, torch.nn.utils.prune); remove that first",
            stacklevel=2,
        )
    unseen = [name for name, parameter in others if id(parameter) not in weights]
    if unseen:
        warnings.warn(
            f"left dense: {_first(unseen)}; only convolutions, fully connected layers and attention are prunable; set "
            "the layer's attribute prunable = False if that is meant",
            stacklevel=2,
        )
    for name, parameter in model.named_parameters():
        if id(parameter) in weights:
            if isinstance(parameter, UninitializedParameter):
                raise SettingError(
                    f"{name!r} of a lazy layer has no shape yet; call the model on one batch first, which gives it one"
                )
            yield name, parameter


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _other_matrices(layer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The matrices called `weight…` of a layer of no prunable kind, if it is not one that is never pruned."""
    if not getattr(layer, "prunable", True) or isinstance(layer, _NEVER_PRUNED) or _names_of_weights(layer):
        return []
    return [(n, p) for n, p in layer._parameters.items() if p is not None and p.dim() > 1 and n.startswith("weight")]


def _names_of_weights(layer: nn.Module) -> tuple[str, ...]:
    """The names of a layer's prunable weights in the layer, whether it has them all or not."""
    if isinstance(layer, nn.MultiheadAttention):
        return "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"
    # Known by its name, because this package does not import transformers.
    is_conv1d = any(f"{c.__module__}.{c.__name__}" == "transformers.pytorch_utils.Conv1D" for c in type(layer).__mro__)
    return ("weight",) if is_conv1d or isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) else ()


_NEVER_PRUNED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Layers whose matrices are not prunable, which is said of no network."""

_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module"}
"""What `torch.compile`, DistributedDataParallel, DataParallel, AveragedModel and FSDP put into names of parameters."""


def names_among(known: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Maps each of `names` to the name in `known` that means the same parameter.

    A name that `known` lacks is compared without the parts that wrappers add (`_orig_mod.`, `module.`,
    `_fsdp_wrapped_module.`), and answered if exactly one of `known` is left the same and no other of `names` has that
    one as it stands.
    """
    bare: dict[str, list[str]] = {}
    for name in known if any(name not in known for name in names) else ():
        bare.setdefault(_bare(name), []).append(name)
    found = {}
    for name in names:
        same = [name] if name in known else bare.get(_bare(name), [])
        if len(same) == 1 and (same[0] == name or same[0] not in names):
            found[name] = same[0]
    return found


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def check_network(model: object, what: str = "model") -> None:
    """Raises a SettingError, calling it `what`, unless it is a network."""
    if not isinstance(model, nn.Module):
        raise SettingError(f"{what} is a {type(model).__name__}; expected a network, a torch.nn.Module")


def check_weights(weights: object, what: str = "the weights") -> None:
    """Raises a SettingError, calling them `what`, unless `weights` are tensors by name, as a state dict."""
    if not isinstance(weights, Mapping):
        raise SettingError(
            f"{what} are a {type(weights).__name__}; expected tensors by parameter name: give model.state_dict()"
        )


def split_over_ranks(name: str, parameters: Mapping[str, Tensor]) -> str:
    """What to say of a weight of which every rank of `torch.distributed` holds a part; empty if it is whole.

    Where `parameters` lacks the name, FSDP may have put the weight into a `_flat_param`.
    """
    found = name if name in parameters else next((n for n in parameters if n.endswith("_flat_param")), None)
    if found is None:
        return ""
    # Recognized by their attributes, because importing torch.distributed's classes takes seconds.
    flattened = getattr(parameters[found], "_fsdp_flattened", False) and parameters[found].dim() < 2
    kind = "a DTensor" if hasattr(parameters[found], "placements") else "flattened by FSDP" if flattened else ""
    return kind and (
        f"{name} is {kind}, of which every rank holds a part (FSDP, tensor parallelism); expected whole tensors, as "
        "DistributedDataParallel keeps them: make and apply masks before the network is split"
    )


def pruned_by_torch(name: str) -> str:
    """What to say of a mask's layer whose weight is no parameter, because `torch.nn.utils.prune` computes it."""
    owner, _, own = name.rpartition(".")
    module = f"model.get_submodule({owner!r})" if owner else "model"
    return (
        f"mask layer {name!r}: torch.nn.utils.prune has pruned this weight already, so that its parameter is called "
        f"{own}_orig; call torch.nn.utils.prune.remove({module}, {own!r}) first"
    )
