"""What replicates say together: mean, standard deviation, and the largest error that matches."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """Over replicates: how many were finite, their mean (nan if none) and standard deviation (ddof 1; None below 2)."""

    n: int
    mean: float
    std: float | None
    diverged: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> "Statistic":
        """The statistic of these values; those that are not finite are counted in `diverged` and left out."""
        values = list(values)
        finite = [value for value in values if math.isfinite(value)]
        mean = statistics.fmean(finite) if finite else math.nan
        std = statistics.stdev(finite) if len(finite) > 1 else None
        return cls(len(finite), mean, std, len(values) - len(finite))

    @property
    def epsilon(self) -> float | None:
        """ε of dense errors: their standard deviation; None with fewer than two runs, or where one diverged."""
        return None if self.diverged else self.std

    @property
    def limit(self) -> float | None:
        """The largest mean error that matches dense errors: their mean + ε."""
        return None if self.epsilon is None else self.mean + self.epsilon


class Values(dict[int, float]):
    """A measurement by replicate. Written as mean ± standard deviation, `–` if none is finite.

    The format `.1f` is in units of its own (`12.3 ± 0.4`), `.2p` in points (`1.40 ± 0.23` for fractions), `.2%` in
    percent (`1.40 ± 0.23%`).
    """

    @property
    def statistic(self) -> Statistic:
        """Over the replicates."""
        return Statistic.of(self.values())

    @property
    def mean(self) -> float:
        """Over the replicates that are finite; nan if there are none."""
        return self.statistic.mean

    @property
    def finite(self) -> "Values":
        """Without the replicates that diverged."""
        return Values({replicate: value for replicate, value in self.items() if math.isfinite(value)})

    def __sub__(self, other: "Values") -> "Values":
        """The differences, in the replicates that both have."""
        return Values({replicate: value - other[replicate] for replicate, value in self.items() if replicate in other})

    def __format__(self, spec: str) -> str:
        scale, unit = {"f": (1, ""), "p": (100, ""), "%": (100, "%")}[spec[-1]]
        return spread(self.values(), int(spec[1:-1]), scale) + unit


def averaged(groups: Sequence[Values]) -> Values:
    """The mean over groups, of the replicates that are in all of them."""
    common = set.intersection(*(set(group) for group in groups)) if groups else set()
    return Values({k: sum(group[k] for group in groups) / len(groups) for k in sorted(common)})


def spread(values: Iterable[float], decimals: int = 1, scale: float = 1.0) -> str:
    """`12.3 ± 0.4`; without the deviation for one value, `–` for none that is finite."""
    statistic = Statistic.of(values)
    if not statistic.n:
        return "–"
    text = f"{round(scale * statistic.mean, decimals) + 0.0:.{decimals}f}"  # never -0.0
    return text if statistic.std is None else f"{text} ± {scale * statistic.std:.{decimals}f}"
