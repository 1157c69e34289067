"""Optimizers for networks with masks. Each module here without an underscore is one, named as a recipe names it.

To add one: its kernel folder, with the rule, and a module here whose `OPTIMIZER` is a subclass of `MaskedOptimizer`.
For a torch optimizer of your own, `keep_masked` is enough.
"""

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
    """What `build_optimizer` reads of a `sparselt.training.schedule.Schedule`: its highest learning rate."""

    @property
    def peak(self) -> float: ...


class OptimizerRecipe(Protocol):
    """What `build_optimizer` reads of a `sparselt.training.recipe.Recipe`, besides the optimizer's `recipe_options`."""

    @property
    def optimizer(self) -> str: ...
    @property
    def schedule(self) -> OptimizerSchedule: ...


def check_optimizer(name: str) -> None:
    """Raises a SettingError with the known names unless there is an optimizer of this name."""
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    if name not in names:
        raise SettingError(f"there is no optimizer {name!r}; expected one of {', '.join(names)}")


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
    """The recipe's optimizer for several networks at once, see `MaskedOptimizer.of_networks`. lr: one a network."""
    kind, options = _kind_and_options(recipe)
    return kind.of_networks(networks, lr=lr, **options)


def _kind_and_options(recipe: OptimizerRecipe) -> "tuple[type[Any], dict[str, Any]]":
    check_optimizer(recipe.optimizer)
    kind = import_module(f"sparselt.optim.{recipe.optimizer}").OPTIMIZER
    return kind, {name: getattr(recipe, name) for name in kind.recipe_options}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sparselt.optim.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sparselt.optim' has no attribute {name!r}")
