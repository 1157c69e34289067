"""What `imp` varies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

VARIANTS = ("random", "reinit", "shuffled", "one_shot", "layerwise", "lr_rewinding", "fine_tuning")
"""What `imp` compares with IMP by weight rewinding, see `sparselt.experiments.imp.experiment`."""


@dataclass(frozen=True, kw_only=True)
class ImpOptions(Options):
    """What `imp` varies, beside the levels and rewind steps of the setting."""

    variants: tuple[str, ...] = value(("random", "reinit"), choices=VARIANTS, help="controls and variants of IMP")
    variant_replicates: int = value(
        0, least=0, at_most="replicates", help="replicates of the variants other than random and reinit; 0: all"
    )
    variant_levels: int = value(
        0,
        least=0,
        levels_above=0,
        help="last level of the variants that prune again and again; 0: the last control level",
    )

    def check_pruning(self, setting: "Setting") -> None:
        """A chain that ranks layer by layer must leave a weight in some layer."""
        if "layerwise" in self.variants:
            levels = self.variant_levels or max(setting.control_levels, default=0)
            setting.check_weights_left("variant_levels", levels, "layerwise")
