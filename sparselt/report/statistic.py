"""What replicates say together: mean, standard deviation, and the largest error that matches."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[int, float]
"""A measurement by replicate."""

NEAR_ZERO_BARRIER = 0.02
"""A mean barrier below this fraction counts as near zero: the threshold of stability in Linear Mode Connectivity
(Frankle et al. 2020), which calls a network stable when its error rises by less than 2 points along the path."""


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


def finite(values: Values) -> dict[int, float]:
    """The values that are finite."""
    return {replicate: value for replicate, value in values.items() if math.isfinite(value)}


def minus(first: Values, second: Values) -> dict[int, float]:
    """first − second, in the replicates that both have."""
    return {replicate: first[replicate] - second[replicate] for replicate in first if replicate in second}


def averaged(groups: Sequence[Values]) -> dict[int, float]:
    """The mean over groups, of the replicates that are in all of them."""
    common = set.intersection(*(set(group) for group in groups)) if groups else set()
    return {replicate: sum(group[replicate] for group in groups) / len(groups) for replicate in sorted(common)}
