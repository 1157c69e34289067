"""What `siblings` varies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

# A smaller share of the weights leaves too few to combine: of 25 million 25,000.
_LEAST_DENSITY = 1e-3


@dataclass(frozen=True, kw_only=True)
class SiblingsOptions(Options):
    """What `siblings` varies. Without steps of pretraining it does not apply."""

    sibling_pretraining: tuple[int, ...] = value((), least=0, step=True, help="steps that siblings share")
    sibling_overlap: int = value(
        3, least=2, most=64, noun="siblings", help="siblings whose masks are compared after each pretraining"
    )
    sibling_counts: tuple[int, ...] = value(
        (2,), least=2, most=64, noun="siblings", help="how many siblings' masks are combined"
    )
    sibling_densities: tuple[float, ...] = value(
        (0.2,), least=_LEAST_DENSITY, most=1 - _LEAST_DENSITY, help="weights remaining of the combined masks"
    )
    sibling_retrained: tuple[int, ...] = value(
        (), least=0, step=True, help="of sibling_pretraining, the steps whose combined masks are retrained"
    )
    sibling_levels: tuple[int, ...] = value(
        (1,), least=1, most=64, help="prunings by which each sibling reaches a density: 1, one-shot, or more"
    )
    sibling_iterative_counts: tuple[int, ...] = value(
        (2,), least=2, most=64, noun="siblings", help="sibling_counts of siblings pruned more than once"
    )

    def check(self, setting: "Setting") -> None:
        """Only what was pretrained can be retrained."""
        for step in self.sibling_retrained:
            if step not in self.sibling_pretraining:
                raise SettingError(
                    f"sibling_retrained holds {step}, which is not among sibling_pretraining "
                    f"{list(self.sibling_pretraining)}; add it there, or leave it out here"
                )
