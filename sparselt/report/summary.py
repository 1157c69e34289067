"""What the replicates say together: mean and standard deviation, matching, and the barriers between levels."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sparselt.report.results import Row

NEAR_ZERO_BARRIER = 0.02
"""A mean barrier below this fraction counts as near zero: the threshold of stability in Linear Mode Connectivity
(Frankle et al. 2020), which calls a network stable when its error rises by less than 2 points along the path."""

_ROUNDING = 1e-12  # equal means of fractions, summed in different ways, differ by less


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


@dataclass(frozen=True)
class LevelSummary:
    """One variant, rewound to one step, at one level.

    error    test error over the replicates, a fraction
    matching error.mean <= dense mean + epsilon; None where it cannot be judged; False where a replicate diverged
    barrier  error barrier to the next level (Unmasking, Def. A.1), a fraction; None where it was not measured
    """

    variant: str
    rewind_step: int | None
    level: int
    density: float
    error: Statistic
    matching: bool | None
    barrier: Statistic | None

    @property
    def connected(self) -> bool | None:
        """Whether the mean barrier to the next level is near zero; None where it was not measured or not finite."""
        if self.barrier is None or math.isnan(self.barrier.mean):
            return None
        return self.barrier.mean < NEAR_ZERO_BARRIER and not self.barrier.diverged


@dataclass(frozen=True)
class Summary:
    """All levels of a run.

    epsilon is the standard deviation of the dense test error over replicates, None with fewer than two dense runs.
    Level 0 of the tickets is the dense network, whatever the rewind step; only its barrier to level 1 differs.
    """

    dense: Statistic | None
    epsilon: float | None
    levels: tuple[LevelSummary, ...]

    @property
    def rewind_steps(self) -> tuple[int, ...]:
        """The rewind steps of the tickets, ascending."""
        return tuple(sorted({entry.rewind_step for entry in self.levels if entry.variant == "imp"}))

    @property
    def threshold(self) -> float | None:
        """The largest mean test error that still matches."""
        return None if self.epsilon is None else self.dense.mean + self.epsilon

    def in_doubt(self, rewind_step: int, level: int) -> bool:
        """Whether `level` and the next both match may be said either way: a mean is within its standard error of the
        threshold, and the other level does not decide."""
        ends = [entry for entry in self.select("imp", rewind_step) if entry.level in (level, level + 1)]
        if self.threshold is None or any(not entry.error.n or entry.error.diverged for entry in ends):
            return False
        reach = [(entry.error.std or 0.0) / math.sqrt(entry.error.n) for entry in ends]
        above = [entry.error.mean - self.threshold for entry in ends]
        fails = any(over > far for over, far in zip(above, reach, strict=True))
        matches = all(over <= -far for over, far in zip(above, reach, strict=True))
        return not fails and not matches

    def select(self, variant: str, rewind_step: int | None = None) -> tuple[LevelSummary, ...]:
        """The levels of a variant, ascending; those of one rewind step if it is given."""
        chosen = [entry for entry in self.levels if entry.variant == variant]
        return tuple(entry for entry in chosen if rewind_step is None or entry.rewind_step == rewind_step)


def is_core(row: Row) -> bool:
    """Whether a row is of IMP, its controls, or the lines between levels, all at the setting's own values."""
    return row.experiment in ("imp", "connectivity") and not row.condition


def summary(rows: Iterable[Row]) -> Summary:
    """Summarize the rows of one run: per variant, rewind step and level, in ascending order."""
    errors, densities, barriers = defaultdict(list), {}, defaultdict(list)
    for row in filter(is_core, rows):
        if row.metric == "test_error" and row.to_level is None:
            errors[row.variant, row.rewind_step, row.level].append(row.value)
            densities.setdefault((row.variant, row.rewind_step, row.level), row.density)
        elif row.metric == "barrier" and row.to_level == row.level + 1:
            barriers[row.variant, row.rewind_step, row.level].append(row.value)
    dense = Statistic.of(errors["dense", None, 0]) if ("dense", None, 0) in errors else None
    epsilon = dense.std if dense and not dense.diverged else None
    for rewind_step in {step for variant, step, _ in [*errors, *barriers] if variant == "imp"}:
        if dense is not None:
            errors["imp", rewind_step, 0] = errors["dense", None, 0]
            densities["imp", rewind_step, 0] = densities["dense", None, 0]

    def entry(key: tuple) -> LevelSummary:
        variant, rewind_step, level = key
        error = Statistic.of(errors[key])
        judged = level > 0 and epsilon is not None
        matching = error.diverged == 0 and error.mean <= dense.mean + epsilon + _ROUNDING if judged else None
        barrier = Statistic.of(barriers[key]) if key in barriers else None
        return LevelSummary(variant, rewind_step, level, densities[key], error, matching, barrier)

    keys = sorted(errors, key=lambda key: (key[0], -1 if key[1] is None else key[1], key[2]))
    return Summary(dense, epsilon, tuple(entry(key) for key in keys))
