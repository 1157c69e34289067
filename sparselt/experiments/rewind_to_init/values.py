"""The measurements of `rewind_to_init` as its section asks for them."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from sparselt.report.data import Data, once
from sparselt.report.results import conditions
from sparselt.report.rules import judged_level
from sparselt.report.statistic import Statistic, Values, averaged
from sparselt.report.wording import percent
from sparselt.stages.masks import EMPTY_LAYER

EXPERIMENT = "rewind_to_init"


@dataclass(frozen=True)
class Condition:
    """A way of training, and the rounds of IMP under it. What a replicate lacks is left out.

    `warmup_steps` is None where the warm-up is the setting's own; `repulsion` is λ, 0 without a repelling loss.
    """

    batch_size: int
    learning_rate: str
    warmup_steps: int | None
    repulsion: float
    _values: dict[tuple, Values] = field(default_factory=lambda: defaultdict(Values), repr=False, compare=False)
    densities: dict[int, float] = field(default_factory=lambda: {0: 1.0}, repr=False, compare=False)
    shares: dict[tuple[int, int], dict[float, float]] = field(
        default_factory=lambda: defaultdict(dict), repr=False, compare=False
    )
    """The share of the live weights in each bin of a histogram: by replicate and level, by the bin's middle."""

    @property
    def name(self) -> str:
        """`batch 32`, `warm-up 300`, `no warm-up`."""
        if self.warmup_steps is None:
            return f"batch {self.batch_size:,}"
        return f"warm-up {self.warmup_steps:,}" if self.warmup_steps else "no warm-up"

    @cached_property
    def levels(self) -> list[int]:
        """0 and the rounds whose error was measured."""
        return [0, *sorted(key[2] for key in self._values if key[:2] == ("test_error", "imp"))]

    @property
    def last(self) -> int:
        """The sparsest round."""
        return self.levels[-1]

    @property
    def judged(self) -> int:
        """The round at which claims are judged, see `sparselt.report.rules`."""
        return judged_level({level: self.density(level) for level in self.levels})

    def density(self, level: int | None = None) -> float:
        """Weights remaining, by default in the sparsest round."""
        return self.densities.get(self.last if level is None else level, 1.0)

    def at(self, metric: str, level: int, to_level: int | None = None) -> Values:
        """A measurement of IMP at one level."""
        return self._values.get((metric, "imp", level, to_level), Values())

    def errors(self, variant: str = "imp", level: int | None = None) -> Values:
        """Test errors of `dense`, `imp` or `reinit`, by default in the sparsest round; at level 0 of `dense`."""
        level = 0 if variant == "dense" else self.last if level is None else level
        return self._values.get(("test_error", variant if level else "dense", level, None), Values())

    @property
    def dense(self) -> Statistic:
        """Test errors of the dense networks."""
        return self.errors("dense").statistic

    @property
    def instability(self) -> Values:
        """How much the error rises between two copies of the dense network, trained in different data orders."""
        return self._values.get(("instability", "dense", 0, 0), Values())

    def increase(self, level: int | None = None) -> Values:
        """Test errors over those of the same replicates' dense networks."""
        return self.errors("imp", level) - self.errors("dense")

    def successive(self, metric: str = "angular_distance", levels: Iterable[int] | None = None) -> Values:
        """Mean of a measurement between successive rounds, from these levels on, by default down to the judged one."""
        return averaged([self.at(metric, k, k + 1) for k in (range(self.judged) if levels is None else levels)])

    def between(self) -> Values:
        """Mean angular distance of all pairs of rounds."""
        return averaged([self.at("angular_distance", *pair) for pair in itertools.combinations(self.levels, 2)])

    def from_initialization(self) -> Values:
        """Mean angular distance of the rounds, down to the judged one, from the initialization."""
        return averaged([self.at("angular_distance_to_initialization", k) for k in range(self.judged + 1)])

    def barrier(self, levels: Iterable[int] | None = None) -> Values:
        """Mean error barrier from these levels, by default those above the judged one, to the next."""
        return self.successive("barrier", levels)

    def matrix(self) -> list[list[float]]:
        """Mean angular distances of all pairs of levels, the initialization last; 0 on the diagonal."""
        size = len(self.levels) + 1
        cells = [[0.0] * size for _ in range(size)]
        for i, level in enumerate(self.levels):
            to_start = self.at("angular_distance_to_initialization", level)
            others = [self.at("angular_distance", level, other) for other in self.levels[i + 1 :]]
            for j, values in enumerate([*others, to_start], i + 1):
                cells[i][j] = cells[j][i] = values.mean
        return cells


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run: batch sizes and warm-ups, ascending; with each repelling loss, the condition without."""

    plain: list[Condition]
    warm: list[Condition]
    repelled: list[tuple[Condition, Condition]]

    @property
    def extremes(self) -> list[Condition]:
        """The smallest and the largest batch size; a single one if only one was measured."""
        return self.plain if len(self.plain) < 2 else [self.plain[0], self.plain[-1]]


@once
def measured(data: Data) -> Conditions:
    """The conditions that IMP was run under."""
    found: dict[str, Condition] = {}
    for row in data.select(experiment=EXPERIMENT):
        if row.metric == EMPTY_LAYER:  # its condition names the layer, too; the page warns of it
            continue
        if row.condition not in found:
            at = conditions(row.condition)
            warmup = int(at["warmup_steps"]) if "warmup_steps" in at else None
            repulsion = float(at.get("repulsion", 0))
            found[row.condition] = Condition(int(at.get("batch_size", 0)), at.get("lr", ""), warmup, repulsion)
        condition = found[row.condition]
        if row.metric == "weight_share" and row.position is not None:
            condition.shares[row.replicate, row.level][row.position] = row.value
        if row.position is not None:
            continue
        condition._values[row.metric, row.variant, row.level, row.to_level][row.replicate] = row.value
        if row.variant == "imp":
            condition.densities.setdefault(row.level, row.density)
    run = [found[text] for text in sorted(found) if any(key[1] == "imp" for key in found[text]._values)]
    plain = [c for c in run if not c.repulsion and c.warmup_steps is None]
    warm = [c for c in run if not c.repulsion and c.warmup_steps is not None]
    without = [dataclasses.replace(c, repulsion=0.0, _values={}) for c in run]
    bases = [next((c for c in found.values() if c == base), base) for base in without]
    repelled = [(c, base) for c, base in zip(run, bases, strict=True) if c.repulsion]
    return Conditions(
        sorted(plain, key=lambda c: c.batch_size),
        sorted(warm, key=lambda c: c.warmup_steps or 0),
        sorted(repelled, key=lambda pair: -pair[0].repulsion),
    )


def weights(condition: Condition, level: int | None = None) -> str:
    """Weights remaining, by default in the sparsest round, in words."""
    return percent(condition.density(level))
