"""What `stability` varies."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

RATES = ("standard", "low", "warmup")
"""Learning rates that `stability` compares; those beside `standard` rewind to step 0."""


@dataclass(frozen=True, kw_only=True)
class StabilityOptions(Options):
    """What `stability` varies. Without levels it does not apply."""

    stability_levels: tuple[int, ...] = value(
        (), least=0, levels_above=0, help="levels at which distances are measured"
    )
    stability_rewind_steps: tuple[int, ...] = value(
        (), least=0, step=True, help="rewind steps at which they are measured"
    )
    stability_rates: tuple[str, ...] = value(
        ("standard",), choices=RATES, help="learning rates; those beside standard rewind to step 0"
    )
    stability_curves: bool = value(
        False, omit_default=True, help="test errors of every level up to the last, at each learning rate"
    )
    low_lr: float = value(
        0.0, least=0, help="learning rate of the rate low, and the peak of warmup's where warmup_lr is 0"
    )
    warmup_lr: float = value(0.0, least=0, help="peak of the rate warmup")
    warmup_lr_steps: int = value(0, least=0, step=True, help="steps over which the rate warmup rises to its peak")

    def within(self, setting: "Setting") -> Self:
        """Without a warm-up that is longer than the training."""
        kept = super().within(setting)
        if self.warmup_lr_steps >= setting.steps:
            rates = tuple(rate for rate in self.stability_rates if rate != "warmup")
            kept = dataclasses.replace(kept, stability_rates=rates)
        return kept
