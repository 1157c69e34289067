"""The numbers that a stage measures, as they stand in its `values.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Value:
    """One number that a stage measured. The experiment adds the other columns of its row in the results.

    A column that is None is filled in by the experiment, or stays empty. `condition` is `name=value`; several are
    separated by spaces.
    """

    metric: str
    value: float
    level: int | None = None
    to_level: int | None = None
    density: float | None = None
    position: float | None = None
    position_2: float | None = None
    condition: str | None = None


@dataclass(frozen=True)
class MeasuredValues:
    """The content of `values.json`: the numbers of a stage, and the density of its network or mask.

    Other notes in the file are not read back.
    """

    values: Sequence[Mapping[str, Any]]
    density: float = 1.0

    def __iter__(self) -> Iterator[Value]:
        return (Value(**value) for value in self.values)
