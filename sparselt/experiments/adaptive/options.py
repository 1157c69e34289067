"""What `adaptive` varies."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptions(Options):
    """What `adaptive` varies. Without a density it does not apply."""

    adaptive_density: float = value(
        0.0, least=0, below=1, help="weights remaining at which adaptive and the fixed schedule stop; 0: not run"
    )
    adaptive_rewind_step: int = value(0, least=0, step=True, help="rewind step of adaptive")
    adaptive_images: int = value(
        0, least=0, at_most="train_count", help="training images of the searches, a random subsample; 0: all"
    )

    def within(self, setting: "Setting") -> Self:
        """A rewind step past the end becomes the setting's last."""
        kept = super().within(setting)
        if self.adaptive_rewind_step >= setting.steps:
            kept = dataclasses.replace(kept, adaptive_rewind_step=max(setting.rewind_steps))
        return kept
