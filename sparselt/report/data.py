"""What an experiment's part of the report is made from, and what it gives: figures, sentences, judged claims."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sparselt.report.results import Row, conditions
from sparselt.report.statistic import Statistic, Values
from sparselt.report.table import Table
from sparselt.runs.ledger import Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparselt.report.drawing import Look

Verdict = Literal["agrees", "does not agree", "cannot be seen at this scale", "not judged"]
Result = TypeVar("Result")

DEFAULT_SOURCES = ("default", "torch's default")
"""The sources of plain defaults in a protocol: sparselt's own, and those that torch has, too."""


@dataclass(frozen=True)
class Data:
    """All measurements of a run, its record, and its ledger where there is one.

    A run has tens of thousands of rows, and its sections select from them some hundred times. An index over these
    columns, which have few values, answers in microseconds, where a mask over a data frame takes milliseconds.
    """

    rows: Sequence[Row]
    record: Mapping[str, Any]
    ledger: Sequence[Entry] = ()
    _computed: dict[tuple, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def wins_at_init(self) -> bool:
        """Whether the paper says that IMP succeeds on this network when it rewinds to initialization."""
        return bool(self.record.get("wins_at_init"))

    def select(self, **columns: Any) -> list[Row]:
        """The rows that have these values in these columns, in their order.

        A tuple stands for any of its values. `condition` is a mapping from names to texts, such as {"rate": "low"},
        which a row's condition equals as a whole; {} selects the rows without one.
        """
        wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in columns.items()}
        keys = [wanted.pop(name, None) for name in _INDEXED]
        groups = [
            places
            for experiment, of in _indexed(self).items()
            if keys[0] is None or experiment in keys[0]
            for (variant, metric, condition), places in of.items()
            if (keys[1] is None or variant in keys[1])
            and (keys[2] is None or metric in keys[2])
            and (keys[3] is None or conditions(condition) in keys[3])
        ]
        places = groups[0] if len(groups) == 1 else sorted(place for group in groups for place in group)
        rows = (self.rows[place] for place in places)
        return [row for row in rows if all(getattr(row, name) in values for name, values in wanted.items())]

    def by(self, *names: str, **columns: Any) -> dict[Any, Values]:
        """Values of the selected rows by replicate, grouped by columns; `.rate` is what the condition says of `rate`,
        a text, or None. The keys are the values of one name, tuples of those of several."""
        groups: dict[Any, Values] = defaultdict(Values)
        for row in self.select(**columns):
            at = conditions(row.condition)
            place = tuple(at.get(name[1:]) if name[0] == "." else getattr(row, name) for name in names)
            groups[place[0] if len(names) == 1 else place][row.replicate] = row.value
        return dict(groups)

    def values(self, **columns: Any) -> Values:
        """Values of the selected rows by replicate."""
        return Values({row.replicate: row.value for row in self.select(**columns)})


_INDEXED = ("experiment", "variant", "metric", "condition")


def once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keeps what a function of a run's `Data` (and of hashable arguments) gives, for as long as the data lives."""

    @functools.wraps(function)
    def kept(data: Data, *arguments: Any) -> Result:
        place = (function, *arguments)
        if place not in data._computed:
            data._computed[place] = function(data, *arguments)
        return data._computed[place]

    return kept


def listed(function: Callable[[Data], Iterable[Result]]) -> Callable[[Data], list[Result]]:
    """Makes a generator function give a list."""
    return functools.wraps(function)(lambda data: list(function(data)))


@once
def _indexed(data: Data) -> dict[str, dict[tuple, list[int]]]:
    """Where the rows stand: by experiment, then by variant, metric and condition."""
    places: dict[str, dict[tuple, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(data.rows):
        places[row.experiment][row.variant, row.metric, row.condition].append(place)
    return places


@dataclass(frozen=True)
class Claim:
    """A finding of a paper beside what this run says of it.

    paper: authors and year; claim: the finding, in a sentence; here: what was measured, with mean and standard
    deviation; statistic: the test and its value, or why nothing was tested; n: what it rests on (replicates, pairs);
    p: of the test, None where nothing was tested; verdict: see `sparselt.report.rules`.
    """

    paper: str
    claim: str
    here: str
    statistic: str
    n: int
    p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Chart:
    """The numbers of a figure, for its interactive version. Axes are those of the figure's first panel.

    lines: how each is drawn, and its values by place on the axis, fractions as in results.csv; places: their names,
    such as `level 3, 51.2% of the weights`; dense: errors of the dense network, for the band of those that match;
    limit: where there is a dashed line.
    """

    lines: Sequence[tuple["Look", Mapping[Any, Values]]]
    places: Mapping[Any, str]
    dense: Statistic | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading and caption. With a chart, the page has an interactive version of it, too.

    rows: which rows of results.csv it shows, such as `connectivity, metric barrier`; empty: those of its experiment.
    """

    figure: "Figure"
    heading: str
    caption: str
    chart: Chart | None = None
    rows: str = ""


def _nothing(data: Data) -> list[str]:
    return []


@dataclass(frozen=True)
class Lead:
    """What a page opens with: sentences, figures and tables. Each function gives nothing where there is nothing.

    Args:
        concerns: whether the run has it at all.
        counts: the table below the sentences, if there is one.
        tables: every level; for a terminal, as the second argument, its width in columns, or None for the page.
    """

    concerns: Callable[[Data], bool]
    findings: Callable[[Data], list[str]]
    drawings: Callable[[Data], dict[str, Drawing]]
    counts: Callable[[Data], Table | None]
    tables: Callable[[Data, int | None], list[Table]]


@dataclass(frozen=True)
class Section:
    """How an experiment is reported. Each function gets the run's `Data` and gives nothing where there is nothing.

    drawings: by name, that of the file in `figures/`; findings: sentences; claims: see `Claim`; warnings: sentences on
    what went wrong in any experiment; lead: what the page opens with; tables: below the figures.
    """

    title: str
    drawings: Callable[[Data], dict[str, Drawing]]
    findings: Callable[[Data], list[str]]
    claims: Callable[[Data], list[Claim]]
    warnings: Callable[[Data], list[str]] = _nothing
    lead: Lead | None = None
    tables: Callable[[Data], list[Table]] = lambda data: []


Sections = Mapping[str, Section]
"""The sections by the names of their experiments, in the order of the page."""


def leads(data: Data, sections: Sections) -> list[Lead]:
    """What the page of a run opens with. Sections may share a lead, which is shown once."""
    found = dict.fromkeys(section.lead for section in sections.values() if section.lead)
    return [lead for lead in found if lead.concerns(data)]
