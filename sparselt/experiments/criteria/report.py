"""What became of Frankle et al. 2021, Pruning Neural Networks at Initialization: Why Are We Missing the Mark?

The abstract says of SNIP, GraSP, SynFlow and magnitude pruning, all at initialization, that they surpass random pruning
and remain below the accuracy of magnitude pruning after training. Each of the two is a claim for each of the four.

Magnitude pruning after training is IMP, which every run has; the error of one magnitude pruning after training is
stated beside it and not tested. Which level is judged, and how, see `sparselt.report.rules`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from sparselt.report import drawing as draw
from sparselt.report.data import Claim, Data, Drawing, Section, listed, once
from sparselt.report.results import conditions
from sparselt.report.rules import dense_errors, judged_level, lower, matches
from sparselt.report.statistic import Statistic, Values
from sparselt.report.table import MARK, Table
from sparselt.report.wording import count, mean_and_std, percent, points, ranges, verb

PAPER = "Frankle et al. 2021 (Missing the Mark)"
_JUDGED = ("magnitude", "snip", "grasp", "synflow")
_NAMES = {"snip": "SNIP", "grasp": "GraSP", "synflow": "SynFlow"}
_WHEN = {"initialization": "at initialization", "training": "after training"}

Method = tuple[str, str]
"""A criterion, and `initialization` or `training`."""

IMP: Method = ("imp", "")
"""IMP among the methods."""


@once
def errors(data: Data) -> dict[Method, dict[int, Values]]:
    """Test errors by method and level: IMP first, then the criteria at initialization, then after training; of each the
    ones that are judged first."""
    found: dict[Method, dict[int, Values]] = defaultdict(lambda: defaultdict(Values))
    for row in data.select(experiment="criteria", variant=("imp", "one_shot"), metric="test_error"):
        at = conditions(row.condition)
        method = IMP if row.variant == "imp" else (at.get("criterion", ""), at.get("when", ""))
        found[method][row.level][row.replicate] = row.value
    when, known = ("", *_WHEN), ("imp", *_JUDGED, "random")

    def order(method: Method) -> tuple[int, bool, int]:
        new = method[0] not in known
        return when.index(method[1]), new, 0 if new else known.index(method[0])

    return {method: {**found[method]} for method in sorted(found, key=order)}


@once
def densities(data: Data) -> dict[int, float]:
    """Weights remaining by level, ascending; of IMP, which every other network of its level follows."""
    rows = data.select(experiment="criteria", variant=("imp", "one_shot"), metric="test_error")
    return dict(sorted({row.level: row.density for row in sorted(rows, key=lambda row: row.variant == "imp")}.items()))


def dense(data: Data) -> Statistic:
    """Test errors of the dense network."""
    return dense_errors(data).statistic


@listed
def findings(data: Data) -> Iterator[str]:
    """The density at which claims are judged, and the error of each criterion there."""
    level = _judged(data)
    if not level:
        return
    yield (
        f"At {percent(densities(data)[level])} of the weights, the level that is judged: IMP errs on "
        f"{_error(data, IMP, level)}%, the dense network on {mean_and_std(dense(data))}%."
    )
    for criterion in _criteria(data):
        texts = [f"{_error(data, (criterion, when), level)}% {text}" for when, text in _WHEN.items()]
        yield f"Pruned once by {_name(criterion)} to the same number of weights: {', '.join(texts)}."


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Each criterion at initialization against IMP, and against random pruning at initialization."""
    level = _judged(data)
    if not level:
        return
    where = f"at {percent(densities(data)[level])} of the weights"
    random, once_trained = ("random", "initialization"), ("magnitude", "training")
    for criterion in _JUDGED:
        method = (criterion, "initialization")
        if level not in errors(data).get(method, {}):
            continue
        found, name = _values(data, method, level), _name(criterion)
        more = _error(data, once_trained, level)
        yield lower(_values(data, IMP, level), found).claim(
            PAPER,
            f"pruning by {name} at initialization errs more than magnitude pruning after training (here: IMP)",
            f"{_error(data, method, level)}% against {_error(data, IMP, level)}% {where}"
            + (f"; magnitude pruning once after training: {more}%" if more != "–" else ""),
        )
        if baseline := _values(data, random, level):
            yield lower(found, baseline).claim(
                PAPER,
                f"pruning by {name} at initialization errs less than random pruning at initialization",
                f"{_error(data, method, level)}% against {_error(data, random, level)}% {where}",
            )


@listed
def tables(data: Data) -> Iterator[Table]:
    """Test error in % by method and density."""
    if not errors(data):
        return
    levels = list(densities(data))
    lines = []
    for method in errors(data):
        cells = [
            _error(data, method, level) + MARK * bool(matches(_statistic(data, method, level), dense(data)))
            for level in levels
        ]
        name = "IMP" if method == IMP else _name(method[0])
        lines.append((name, _WHEN.get(method[1], "level by level"), *cells))
    numbers = sorted({len(values) for of in errors(data).values() for values in of.values()})
    note = (
        f"Test error in %, mean ± standard deviation over {ranges(numbers)} "
        f"{verb(numbers[-1], 'replicate', 'replicates')}; the dense network: {mean_and_std(dense(data))} "
        f"({count(dense(data).n, 'run')})."
    )
    if (limit := dense(data).limit) is not None:
        note += f" {MARK} matching: at most {points(limit)}, the dense mean plus ε, the deviation of the dense runs."
    headings = ("pruned by", "when", *(percent(densities(data)[level]) for level in levels))
    yield Table(headings, lines, text=2, title="Test error by criterion and weights remaining", note=note)


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against density: IMP beside the criteria at initialization, and beside those after training."""
    looks = {criterion: draw.look(place, _short(criterion)) for place, criterion in enumerate(_criteria(data))}
    looks |= {"random": draw.Look("random", draw.GREY, "x", "--"), "imp": draw.Look("IMP", draw.INK)}
    drawn = [method for method in errors(data) if any(error.n for error in _statistics(data, [method]))]
    if not drawn:
        return {}
    figure, panels = draw.canvas(6.6, 2, sharex=True)
    for axes, (when, text) in zip(panels, _WHEN.items(), strict=True):
        lines = [
            (looks[method[0]], [(densities(data)[level], _statistic(data, method, level)) for level in sorted(of)])
            for method, of in errors(data).items()
            if method in drawn and method[1] in ("", when)
        ]
        ends = draw.bars(axes, lines, move=lambda density, side: density * 1.012**side)
        draw.error_axis(axes, _statistics(data, drawn))
        draw.matching_band(axes, dense(data))
        draw.density_axis(axes, densities(data).values(), *_reach(densities(data).values()))
        axes.set_title(f"pruned once {text}", fontsize=10)
        draw.label_ends(axes, ends + draw.dense_label(dense(data)))
    panels[0].set_xlabel("")
    panels[0].tick_params(labelbottom=False)
    caption = (
        "All networks of a density have equally many weights. IMP, the same line in both panels, prunes level by level "
        "and rewinds. Above: weights scored once at initialization, and the network trained in full. Below: weights "
        "scored once after training, and rewound as IMP's. Mean and standard deviation over replicates. Grey line: the "
        "dense mean; grey band: up to ε above it."
    )
    return {"criteria": Drawing(figure, "Test error against weights remaining, by pruning criterion", caption)}


SECTION = Section("Pruning criteria at equal density", drawings, findings, claims, tables=tables)


def _criteria(data: Data) -> list[str]:
    """The criteria, in the order of `errors`."""
    return list(dict.fromkeys(criterion for criterion, when in errors(data) if when))


def _values(data: Data, method: Method, level: int) -> Values:
    return errors(data).get(method, {}).get(level, Values())


def _statistic(data: Data, method: Method, level: int) -> Statistic:
    return Statistic.of(_values(data, method, level).values())


def _error(data: Data, method: Method, level: int) -> str:
    return mean_and_std(_statistic(data, method, level) if _values(data, method, level) else None)


def _statistics(data: Data, methods: Iterable[Method]) -> list[Statistic]:
    every = [_statistic(data, method, level) for method in methods for level in errors(data)[method]]
    return [error for error in every if error.n]


def _judged(data: Data) -> int:
    """The level at which the claims are judged, of those at which IMP was measured; 0 without any."""
    return judged_level({level: densities(data)[level] for level in errors(data).get(IMP, {})})


def _reach(places: Iterable[float]) -> tuple[float, float]:
    return max(places) * 1.06, min(places) / 1.06


def _name(criterion: str) -> str:
    return _NAMES.get(criterion, criterion)


def _short(criterion: str) -> str:
    """Of a reference its last part, so that a figure has room."""
    return _name(criterion).rpartition(":")[2]
