"""The dense network, IMP and its controls, level by level: errors, matching, and the barriers between levels."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

from sparselt.report.data import Data, once
from sparselt.report.rules import allowed, dense_errors, matches
from sparselt.report.statistic import Statistic, Values

MEASURED_BY = ("imp", "connectivity", "landscape")
"""The experiments that measure the errors of dense networks and tickets; the latter two in runs without `imp`."""

CONTROLS = {"random": "random mask", "reinit": "reinitialized"}
"""The controls by variant: the layerwise densities with a random mask; the IMP mask on fresh weights."""


@dataclass(frozen=True)
class Level:
    """One variant, rewound to one step, at one level.

    errors   test errors by replicate, fractions
    error    over the replicates
    matching see `sparselt.report.rules.matches`; None at level 0 and where it cannot be judged
    barrier  error barrier to the next level (Unmasking, Def. A.1), a fraction; None where it was not measured
    """

    variant: str
    rewind_step: int | None
    level: int
    density: float
    errors: Values
    matching: bool | None
    barrier: Statistic | None

    @property
    def error(self) -> Statistic:
        """The test error over the replicates."""
        return self.errors.statistic

    def connected(self, limit: float) -> bool | None:
        """Whether the mean barrier to the next level is within a limit; None where it is not known."""
        return None if self.barrier is None or not self.barrier.n else allowed(self.barrier, limit)


@dataclass(frozen=True)
class Levels:
    """All levels of a run, and the test errors of its dense networks (n = 0 where there is none).

    Level 0 of the tickets is the dense network, whatever the rewind step, unless it was trained for each of them.
    """

    dense: Statistic
    levels: tuple[Level, ...]

    @property
    def epsilon(self) -> float | None:
        """The standard deviation of the dense test error, None with fewer than two runs, or where one diverged."""
        return self.dense.epsilon

    @property
    def threshold(self) -> float | None:
        """The largest mean test error that still matches."""
        return self.dense.limit

    @property
    def rewind_steps(self) -> tuple[int, ...]:
        """The rewind steps of the tickets, ascending."""
        return tuple(sorted({entry.rewind_step or 0 for entry in self.levels if entry.variant == "imp"}))

    @property
    def density(self) -> dict[int, float]:
        """Weights remaining by level, ascending; those of IMP where variants differ."""
        entries = sorted(self.levels, key=lambda entry: entry.variant == "imp")
        return dict(sorted({entry.level: entry.density for entry in entries}.items()))

    def select(self, variant: str, rewind_step: int | None = None) -> tuple[Level, ...]:
        """The levels of a variant, ascending; those of one rewind step if it is given."""
        chosen = [entry for entry in self.levels if entry.variant == variant]
        return tuple(entry for entry in chosen if rewind_step is None or entry.rewind_step == rewind_step)

    def at(self, variant: str, rewind_step: int | None, level: int) -> Level | None:
        """One level; None if it was not measured."""
        return next((entry for entry in self.select(variant, rewind_step) if entry.level == level), None)

    def sparsest(self, variant: str) -> Level | None:
        """The sparsest level that a variant was measured at; None if it was not."""
        return max(self.select(variant), key=lambda entry: entry.level, default=None)


@dataclass(frozen=True)
class Agreement:
    """Pairs of successive levels, level 0 apart, of one rewind step: do matching and no barrier coincide?

    Each field holds the lower level of the pairs: both levels match or not, the mean barrier is within a limit or not.
    """

    rewind_step: int
    matching_connected: tuple[int, ...]
    matching_separated: tuple[int, ...]
    failing_connected: tuple[int, ...]
    failing_separated: tuple[int, ...]

    @property
    def cells(self) -> tuple[tuple[int, ...], ...]:
        """The four fields, in their order."""
        return self.matching_connected, self.matching_separated, self.failing_connected, self.failing_separated

    @property
    def pairs(self) -> int:
        """How many pairs could be judged."""
        return sum(map(len, self.cells))

    @property
    def agreeing(self) -> int:
        """How many pairs are both or neither."""
        return len(self.matching_connected) + len(self.failing_separated)


def concerns(data: Data) -> bool:
    """Whether a run has anything of IMP, its controls, or the lines between levels, at the setting's own values."""
    return bool(data.select(experiment=("imp", "connectivity"), condition={}))


@once
def levels(data: Data) -> Levels:
    """The levels of a run: by variant, rewind step and level, in ascending order."""
    columns = {"experiment": MEASURED_BY, "condition": {}}
    rows = data.select(metric="test_error", to_level=None, **columns)
    errors = data.by("variant", "rewind_step", "level", metric="test_error", to_level=None, **columns)
    densities = {(row.variant, row.rewind_step, row.level): row.density for row in reversed(rows)}
    paths = data.by("variant", "rewind_step", "level", "to_level", metric="barrier", **columns)
    barriers = {key[:3]: values.statistic for key, values in paths.items() if key[3] == key[2] + 1}
    first = ("dense", None, 0)
    dense = dense_errors(data).statistic
    for step in {step for variant, step, _ in [*errors, *barriers] if variant == "imp"} if first in errors else ():
        errors.setdefault(("imp", step, 0), errors[first])
        densities.setdefault(("imp", step, 0), densities[first])
    found = []
    for key in sorted(errors, key=lambda key: (key[0], -1 if key[1] is None else key[1], key[2])):
        variant, step, level = key
        matching = matches(errors[key].statistic, dense) if level else None
        found.append(Level(variant, step, level, densities[key], errors[key], matching, barriers.get(key)))
    return Levels(dense, tuple(found))


def measured_by(data: Data) -> str:
    """The experiment that measured the errors of dense networks and tickets; `imp` where none did."""
    found = {row.experiment for row in data.select(metric="test_error", variant=("dense", "imp"), condition={})}
    return next((name for name in MEASURED_BY if name in found), "imp")


@once
def agreements(data: Data, limit: float | None = None) -> list[Agreement]:
    """One for each rewind step that has a pair to judge; Unmasking's finding leaves level 0 apart (App. D).

    limit: the largest mean barrier that is none; by default ε. Nothing is judged where ε is unknown.
    """
    limit = levels(data).epsilon if limit is None else limit
    order = ((True, True), (True, False), (False, True), (False, False))
    found = []
    for step in levels(data).rewind_steps:
        of_step, cells = levels(data).select("imp", step), defaultdict(list)
        for entry, following in itertools.pairwise(of_step):
            connected = None if limit is None else entry.connected(limit)
            if 0 < entry.level == following.level - 1 and None not in (entry.matching, following.matching, connected):
                cells[entry.matching and following.matching, connected].append(entry.level)
        if cells:
            found.append(Agreement(step, *(tuple(cells[cell]) for cell in order)))
    return found
