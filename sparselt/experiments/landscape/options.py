"""What `landscape` varies."""

from dataclasses import dataclass

from sparselt.experiments.options import Options
from sparselt.experiments.values import value


@dataclass(frozen=True, kw_only=True)
class LandscapeOptions(Options):
    """What `landscape` varies. Without levels it does not apply."""

    landscape_levels: tuple[int, ...] = value(
        (),
        least=0,
        levels_above=1,
        help="L of the planes through w(L), its projection and w(L+1), at the first and last rewind step",
    )
    landscape_points: int = value(51, least=4, help="points on each side of a plane's grid")
    landscape_replicates: int = value(1, least=1, at_most="replicates", help="replicates that planes are drawn for")
