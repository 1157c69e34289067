"""What `retraining` varies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.experiments.options import Options
from sparselt.experiments.values import value

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

CHAINS = ("imp", "lr_rewinding", "fine_tuning")
"""The ways of training again that `retraining` compares, see `sparselt.experiments.chains`."""


@dataclass(frozen=True, kw_only=True)
class RetrainingOptions(Options):
    """What `retraining` varies. Without ways of training again it does not apply."""

    retraining_chains: tuple[str, ...] = value(
        (), omit_default=True, choices=CHAINS, help="ways of training again that are compared"
    )
    retraining_levels: int = value(0, omit_default=True, least=0, levels_above=0, help="last level that is looked at")
    retraining_replicates: int = value(
        0, omit_default=True, least=0, at_most="replicates", help="replicates of each way; 0: all"
    )

    def check_pruning(self, setting: "Setting") -> None:
        """The weights of the last level must suffice for one more pruning."""
        setting.check_weights_left("retraining_levels", self.retraining_levels + 1, setting.scope)
