"""An experiment's part of the report: its figures, what it shows in words, and what becomes of the paper's claims."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sparselt.report.results import Row
from sparselt.report.summary import Summary, summary
from sparselt.runs.ledger import Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["agrees", "does not agree", "cannot be seen at this scale"]

# Columns with few values: a section asks some hundred times for a few of tens of thousands of rows.
_INDEXED = ("experiment", "variant", "metric")


@dataclass(frozen=True)
class Claim:
    """A finding of a paper beside what this run says of it.

    paper: authors and year; claim: the finding, in a sentence; here: what was measured, with mean and standard
    deviation; statistic: the test and its value, or how it was counted; n: what it rests on (replicates, pairs); p: of
    the test, None where nothing was tested.
    """

    paper: str
    claim: str
    here: str
    statistic: str
    n: int
    p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading and caption."""

    figure: "Figure"
    heading: str
    caption: str


@dataclass(frozen=True)
class Data:
    """What a section is made from: all measurements of a run, its record, and its ledger where there is one."""

    rows: Sequence[Row]
    record: Mapping[str, Any]
    ledger: Sequence[Entry] = ()

    @cached_property
    def levels(self) -> Summary:
        """The dense network, IMP and its controls, level by level."""
        return summary(self.rows)

    def select(self, **columns: Any) -> list[Row]:
        """The rows that have these values in these columns, in their order; a tuple stands for any of its values."""
        wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in columns.items()}
        indexed = [
            [place for value in set(wanted.pop(name)) for place in self._places[name, value]]
            for name in _INDEXED
            if name in wanted
        ]
        places = set(indexed[0]).intersection(*indexed[1:]) if indexed else range(len(self.rows))
        rows = (self.rows[place] for place in sorted(places))
        return [row for row in rows if all(getattr(row, name) in values for name, values in wanted.items())]

    @cached_property
    def _places(self) -> Mapping[tuple[str, Any], Sequence[int]]:
        """Where the rows stand that have a value in a column of `_INDEXED`."""
        places: dict[tuple[str, Any], list[int]] = defaultdict(list)
        for place, row in enumerate(self.rows):
            for name in _INDEXED:
                places[name, getattr(row, name)].append(place)
        return places

    def by(self, *names: str, **columns: Any) -> dict[tuple, dict[int, float]]:
        """Values of the selected rows by replicate, grouped by the columns `names`."""
        groups: dict[tuple, dict[int, float]] = defaultdict(dict)
        for row in self.select(**columns):
            groups[tuple(getattr(row, name) for name in names)][row.replicate] = row.value
        return dict(groups)


@dataclass(frozen=True)
class Section:
    """How an experiment is reported. Each function gets the run's `Data` and gives nothing where there is nothing.

    drawings: by name, that of the file in `figures/`; findings: sentences; claims: see `Claim`.
    """

    title: str
    drawings: Callable[[Data], dict[str, Drawing]]
    findings: Callable[[Data], list[str]]
    claims: Callable[[Data], list[Claim]]


def condition_value(condition: str, name: str) -> str | None:
    """The text after `name=` in a row's condition; None if it does not say."""
    return dict(part.split("=", 1) for part in condition.split()).get(name)
