"""What `connectivity` varies."""

from dataclasses import dataclass

from sparselt.experiments.options import Options
from sparselt.experiments.values import value


@dataclass(frozen=True, kw_only=True)
class ConnectivityOptions(Options):
    """What `connectivity` varies, beside the setting's `path_points`."""

    heat_map: bool = value(
        True, help="evaluate the lines between all pairs of levels at the last rewind step, not only successive ones"
    )
    instability_levels: tuple[int, ...] = value(
        (), least=0, levels_above=0, help="levels with a second copy, trained in another data order"
    )
