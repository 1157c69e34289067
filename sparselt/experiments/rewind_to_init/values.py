"""The measurements of `rewind_to_init` as its section asks for them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sparselt.report.section import Data, condition_value
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import Values

EXPERIMENT = "rewind_to_init"


@dataclass(frozen=True)
class Condition:
    """A way of training, as the column `condition` writes it."""

    text: str

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return int(condition_value(self.text, "batch_size") or 0)

    @property
    def learning_rate(self) -> str:
        """As it is written."""
        return condition_value(self.text, "lr") or ""

    @property
    def warmup_steps(self) -> int | None:
        """None where the warm-up is the setting's own."""
        value = condition_value(self.text, "warmup_steps")
        return None if value is None else int(value)

    @property
    def repulsion(self) -> float:
        """λ; 0 without a repelling loss."""
        return float(condition_value(self.text, "repulsion") or 0)

    @property
    def base(self) -> "Condition":
        """The same without the repelling loss."""
        return Condition(" ".join(part for part in self.text.split() if not part.startswith("repulsion=")))

    @property
    def name(self) -> str:
        """`batch 32`, `warm-up 300`, `no warm-up`."""
        if self.warmup_steps is None:
            return f"batch {self.batch_size:,}"
        return f"warm-up {self.warmup_steps:,}" if self.warmup_steps else "no warm-up"

    @property
    def title(self) -> str:
        """`Batch 32, lr 0.1`, `Batch 64, lr 0.3, warm-up 300`."""
        warm = "" if self.warmup_steps is None else f", {self.name}"
        return f"Batch {self.batch_size:,}, lr {self.learning_rate}{warm}"


class Rounds:
    """The rounds of IMP under each condition. What a replicate lacks is left out."""

    def __init__(self, data: Data):
        self._values: dict[tuple, dict[int, float]] = defaultdict(dict)
        self._density: dict[tuple[str, int], float] = {}
        conditions = set()
        for row in data.select(experiment=EXPERIMENT):
            if row.position is not None:
                continue
            self._values[row.metric, row.variant, row.condition, row.level, row.to_level][row.replicate] = row.value
            if row.variant == "imp":
                self._density.setdefault((row.condition, row.level), row.density)
                conditions.add(Condition(row.condition))
        self.repelled = sorted((c for c in conditions if c.repulsion), key=lambda c: -c.repulsion)
        plain = conditions - set(self.repelled)
        self.plain = sorted((c for c in plain if c.warmup_steps is None), key=lambda c: (c.batch_size, c.text))
        self.warm = sorted((c for c in plain if c.warmup_steps is not None), key=lambda c: c.warmup_steps or 0)

    def at(self, metric: str, condition: Condition, level: int, to_level: int | None = None) -> Values:
        """A measurement of IMP at one level."""
        return self._values.get((metric, "imp", condition.text, level, to_level), {})

    def errors(self, variant: str, condition: Condition, level: int) -> Values:
        """Test errors of `dense`, `imp` or `reinit`."""
        if level == 0:
            variant = "dense"
        return self._values.get(("test_error", variant, condition.text, level, None), {})

    def dense(self, condition: Condition) -> Values:
        """Test errors of the dense networks."""
        return self.errors("dense", condition, 0)

    def increase(self, condition: Condition, level: int) -> Values:
        """Test errors over those of the same replicates' dense networks."""
        dense, errors = self.dense(condition), self.errors("imp", condition, level)
        return {replicate: errors[replicate] - dense[replicate] for replicate in errors.keys() & dense.keys()}

    def levels(self, condition: Condition) -> list[int]:
        """0 and the rounds whose error was measured."""
        return [0, *sorted(key[3] for key in self._values if key[:3] == ("test_error", "imp", condition.text))]

    def last(self, condition: Condition) -> int:
        """The sparsest round."""
        return self.levels(condition)[-1]

    def density(self, condition: Condition, level: int) -> float:
        """Weights remaining."""
        return 1.0 if level == 0 else self._density.get((condition.text, level), 1.0)

    def barrier(self, condition: Condition, levels: Sequence[int] | None = None) -> Values:
        """Mean error barrier from these levels, by default all, to the next."""
        chosen = self.levels(condition)[:-1] if levels is None else levels
        return _mean([self.at("barrier", condition, level, level + 1) for level in chosen])

    def successive(self, condition: Condition) -> Values:
        """Mean angular distance of successive rounds."""
        pairs = [self.at("angular_distance", condition, k, k + 1) for k in self.levels(condition)[:-1]]
        return _mean(pairs)

    def between(self, condition: Condition) -> Values:
        """Mean angular distance of all pairs of rounds."""
        levels = self.levels(condition)
        return _mean([self.at("angular_distance", condition, i, j) for i in levels for j in levels if i < j])

    def from_initialization(self, condition: Condition) -> Values:
        """Mean angular distance of the rounds from the initialization."""
        return _mean([self.at("angular_distance_to_initialization", condition, k) for k in self.levels(condition)])

    def matrix(self, condition: Condition) -> list[list[float]]:
        """Mean angular distances of all pairs of levels, the initialization last; 0 on the diagonal."""
        levels = self.levels(condition)
        size = len(levels) + 1
        cells = [[0.0] * size for _ in range(size)]
        for i, level in enumerate(levels):
            cells[i][-1] = self._mean_of("angular_distance_to_initialization", condition, level)
            for j, other in enumerate(levels[i + 1 :], i + 1):
                cells[i][j] = self._mean_of("angular_distance", condition, level, other)
        return [[cells[min(i, j)][max(i, j)] for j in range(size)] for i in range(size)]

    def _mean_of(self, metric: str, condition: Condition, level: int, to_level: int | None = None) -> float:
        return Statistic.of(self.at(metric, condition, level, to_level).values()).mean

    @cached_property
    def extremes(self) -> list[Condition]:
        """The smallest and the largest batch size, or the one there is."""
        return self.plain if len(self.plain) < 2 else [self.plain[0], self.plain[-1]]


def _mean(groups: Sequence[Values]) -> dict[int, float]:
    """The mean over groups, of the replicates that are in all of them."""
    if not groups:
        return {}
    common = set.intersection(*(set(group) for group in groups))
    return {replicate: sum(group[replicate] for group in groups) / len(groups) for replicate in sorted(common)}
