"""Optimizers for networks with masks. Each public module holds one; a recipe names it by the module's name.

To add an optimizer, add a kernel folder with its rule, a module here with `OPTIMIZER`, a subclass of `MaskedOptimizer`,
and its line in `RECIPE_OPTIONS`. For your own torch optimizer, `keep_masked` is enough.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from sparselt.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparselt.kernels._optimizer import Operation
    from sparselt.optim._base import MaskedOptimizer as MaskedOptimizer
    from sparselt.optim._keep_masked import keep_masked as keep_masked
    from sparselt.optim._networks import mask_of_networks as mask_of_networks
    from sparselt.optim.adam import MaskedAdam as MaskedAdam
    from sparselt.optim.adamw import MaskedAdamW as MaskedAdamW
    from sparselt.optim.rmsprop import MaskedRMSprop as MaskedRMSprop
    from sparselt.optim.sgd import MaskedSGD as MaskedSGD

RECIPE_OPTIONS: dict[str, tuple[str, ...]] = {
    "adam": ("betas", "eps", "weight_decay"),
    "adamw": ("betas", "eps", "weight_decay"),
    "rmsprop": ("alpha", "eps", "weight_decay", "momentum", "centered"),
    "sgd": ("momentum", "weight_decay", "nesterov", "decoupled_weight_decay"),
}
"""For each optimizer the options that a `sparselt.training.recipe.Recipe` gives it, besides the learning rate."""

# Loaded on first use, so that checking the name of an optimizer needs no torch.
_HOME = {
    "MaskedAdam": "adam",
    "MaskedAdamW": "adamw",
    "MaskedOptimizer": "_base",
    "MaskedRMSprop": "rmsprop",
    "MaskedSGD": "sgd",
    "keep_masked": "_keep_masked",
    "mask_of_networks": "_networks",
}


class OptimizerSchedule(Protocol):
    """The part of a `sparselt.training.schedule.Schedule` that `build_optimizer` reads: the peak learning rate."""

    @property
    def peak(self) -> float: ...


class OptimizerRecipe(Protocol):
    """The part of a `sparselt.training.recipe.Recipe` that `build_optimizer` reads, besides `RECIPE_OPTIONS`."""

    @property
    def optimizer(self) -> str: ...
    @property
    def schedule(self) -> OptimizerSchedule: ...


def check_optimizer(name: str) -> None:
    """Raises a SettingError with the known names if no optimizer has this name."""
    if name not in RECIPE_OPTIONS:
        raise SettingError(f"there is no optimizer {name!r}; expected one of {', '.join(RECIPE_OPTIONS)}")


def options_of_other_optimizers(optimizer: str) -> set[str]:
    """The options of other optimizers that this one does not have."""
    return set().union(*RECIPE_OPTIONS.values()).difference(RECIPE_OPTIONS[optimizer])


def build_optimizer(
    recipe: OptimizerRecipe,
    named_parameters: "Iterable[tuple[str, nn.Parameter]]",
    mask: "Mapping[str, Tensor] | None" = None,
) -> "MaskedOptimizer":
    """The optimizer that the recipe names, with its options, at its peak learning rate."""
    kind, options = _kind_and_options(recipe)
    return kind(named_parameters, lr=recipe.schedule.peak, mask=mask, **options)


def build_optimizer_of_networks(
    recipe: OptimizerRecipe, networks: "Sequence[nn.Module]", lr: "Sequence[float | Tensor]"
) -> "MaskedOptimizer":
    """The recipe's optimizer for several networks at once, see `MaskedOptimizer.of_networks`. lr: for each network."""
    kind, options = _kind_and_options(recipe)
    return kind.of_networks(networks, lr=lr, **options)


def _kind_and_options(recipe: OptimizerRecipe) -> "tuple[type[Any], dict[str, Any]]":
    check_optimizer(recipe.optimizer)
    kind = import_module(f"sparselt.optim.{recipe.optimizer}").OPTIMIZER
    return kind, {name: getattr(recipe, name) for name in RECIPE_OPTIONS[recipe.optimizer]}


def operation_of(recipe: OptimizerRecipe) -> "Operation":
    """The kernel of the recipe's optimizer, with its options: how many buffers of state it has, and its rules."""
    import torch

    kind, options = _kind_and_options(recipe)
    return kind([("weight", torch.nn.Parameter(torch.zeros(1)))], lr=0.1, **options).operation


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sparselt.optim.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sparselt.optim' has no attribute {name!r}")
