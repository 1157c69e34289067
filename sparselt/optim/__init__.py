"""Optimizers for networks with masks. Each public module holds one; a recipe names it by the module's name.

To add an optimizer, add a kernel folder with its rule and a module here with `OPTIMIZER`, a subclass of
`MaskedOptimizer`. For your own torch optimizer, `keep_masked` is enough.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from sparselt.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparselt.optim._base import MaskedOptimizer as MaskedOptimizer
    from sparselt.optim._keep_masked import keep_masked as keep_masked
    from sparselt.optim._networks import mask_of_networks as mask_of_networks
    from sparselt.optim.sgd import MaskedSGD as MaskedSGD

# Loaded on first use, so that checking the name of an optimizer needs no torch.
_HOME = {
    "MaskedOptimizer": "_base",
    "MaskedSGD": "sgd",
    "keep_masked": "_keep_masked",
    "mask_of_networks": "_networks",
}


class OptimizerSchedule(Protocol):
    """The part of a `sparselt.training.schedule.Schedule` that `build_optimizer` reads: the peak learning rate."""

    @property
    def peak(self) -> float: ...


class OptimizerRecipe(Protocol):
    """The part of a `sparselt.training.recipe.Recipe` that `build_optimizer` reads, besides `recipe_options`."""

    @property
    def optimizer(self) -> str: ...
    @property
    def schedule(self) -> OptimizerSchedule: ...


def check_optimizer(name: str) -> None:
    """Raises a SettingError with the known names if no optimizer has this name."""
    if name not in _names():
        raise SettingError(f"there is no optimizer {name!r}; expected one of {', '.join(_names())}")


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
    return kind, {name: getattr(recipe, name) for name in kind.recipe_options}


@functools.cache
def _names() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sparselt.optim.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sparselt.optim' has no attribute {name!r}")
