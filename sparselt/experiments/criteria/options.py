"""What `criteria` varies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.experiments.options import Options
from sparselt.experiments.trials import check_criterion
from sparselt.experiments.values import value
from sparselt.scopes import Scope
from sparselt.training.recipe import TECHNIQUES

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting


@dataclass(frozen=True, kw_only=True)
class CriteriaOptions(Options):
    """What `criteria` varies. Without criteria or levels it does not apply."""

    criteria: tuple[str, ...] = value(
        (), omit_default=True, help="pruning criteria that are compared, see `sparselt.criteria`; or your own"
    )
    criteria_levels: tuple[int, ...] = value(
        (), omit_default=True, least=1, levels_above=0, help="levels of IMP at whose densities they are compared"
    )
    criteria_scope: Scope = value(
        "global",
        omit_default=True,
        shown=lambda setting: bool(setting.option(CriteriaOptions).criteria),
        help="whether a criterion ranks weights all together, by layer, or by Erdős–Rényi-Kernel densities",
    )

    def check(self, setting: "Setting") -> None:
        """Each criterion is one that is known, or one of the user's own that can be used."""
        for criterion in self.criteria:
            shape = (setting.classes, setting.channels, setting.train_size)
            check_criterion(criterion, setting.model, *shape, TECHNIQUES[setting.techniques])
