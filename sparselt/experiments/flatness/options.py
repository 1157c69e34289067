"""What `flatness` varies."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sparselt.errors import SettingError
from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting


@dataclass(frozen=True, kw_only=True)
class FlatnessOptions(Options):
    """What `flatness` varies. Without levels it does not apply."""

    flatness_levels: tuple[int, ...] = value(
        (), least=0, levels_above=0, help="levels at which the Hessian's spectrum is taken"
    )
    flatness_images: int = value(
        512, least=1, at_most="train_count", help="training images that the spectrum is taken on"
    )
    flatness_eigenvalues: int = value(5, least=1, help="largest eigenvalues taken")
    flatness_products: int = value(
        40, least=1, help="Hessian-vector products for the eigenvalues; the trace takes half as many, at least 2"
    )
    perturbation_level: int = value(
        1, least=1, levels_above=1, help="level whose rewound network is perturbed, beside the dense network"
    )
    perturbation_steps: tuple[int, ...] = value(
        (), omit_default=True, step=True, help="rewind steps at which networks are perturbed; none: first and last"
    )
    perturbation_scales: tuple[float, ...] = value(
        (), least=0, help="norms of perturbations, over that of the pruning projection"
    )

    def check(self, setting: "Setting") -> None:
        """More eigenvalues than products cannot be found."""
        if self.flatness_eigenvalues > self.flatness_products:
            raise SettingError(
                f"flatness_eigenvalues is {self.flatness_eigenvalues}, more than the {self.flatness_products} "
                "Hessian-vector products of flatness_products that they may take; expected fewer, or more products"
            )

    def within(self, setting: "Setting") -> Self:
        """Level 1 stays: it is the least that can be perturbed."""
        kept = super().within(setting)
        return dataclasses.replace(kept, perturbation_level=max(1, kept.perturbation_level))
