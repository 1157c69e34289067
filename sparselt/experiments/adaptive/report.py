"""Adaptive pruning against the same fraction at every level (Paul et al. 2022, section 2.2 and Fig. 4).

Both schedules are judged where they first reach the density asked for. Fewer trainings: a one-sided paired t test over
replicates; less time, searches included, the same of the seconds in the ledger, which are one machine's. No accuracy
lost: the error there is larger by less than ε, the standard deviation of the dense error, which is the paper's own
measure of matching (one-sided: an error that is lower loses nothing).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparselt.report.drawing import COLOURS, GREY, error_axis, ticks
from sparselt.report.section import Claim, Data, Drawing, Section, condition_value
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import Judged, Values, lower, lower_than, not_higher, spread
from sparselt.report.wording import count, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = "Paul et al. 2022 (Unmasking)"
_LOOK = {"fixed": (COLOURS[1], "o"), "adaptive": (COLOURS[0], "D")}


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against weights remaining for both schedules, and below it what each level pruned."""
    chains = {variant: _chains(data, variant) for variant in _LOOK}
    if not any(chains.values()):
        return {}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    drawn = _errors(top, chains, _dense(data))
    _fractions(bottom, data)
    densities = sorted({density for density, _ in drawn} | {1.0}, reverse=True)
    bottom.set_xscale("log")
    bottom.set_xlim(1.04, densities[-1] / 1.08)
    # Those that the fixed schedule has, as the other figures have them; the adaptive one's differ by replicate.
    longest = max((chains["fixed"] or chains["adaptive"]).values(), key=len)
    ticks(bottom, {place: percent(place).rstrip("%") for place in (1.0, *(density for density, _ in longest))})
    bottom.set_xlabel("weights remaining, % (log scale)")
    caption = (
        "After Fig. 4 of Unmasking: a marker is a training. Above: test error; the fixed schedule's mean and standard "
        "deviation, and every replicate of the adaptive one, thin, for their densities differ. Grey: the dense mean "
        "and ε above it. Below: the fraction of the remaining weights that each level pruned; hollow where no fraction "
        "above the least kept the training loss below the threshold all along the path."
    )
    return {"adaptive_pruning": Drawing(figure, "Adaptive and fixed pruning", caption)}


def findings(data: Data) -> list[str]:
    """Trainings, errors, what was pruned at each level, where nothing could be, and time with the search."""
    adaptive, fixed = (_arrived(data, variant) for variant in ("adaptive", "fixed"))
    if not adaptive or not fixed:
        return ["No replicate of both schedules reached the density asked for, so they cannot be compared."]
    step, target = _step(data), percent(_target(data))
    texts = [
        f"Down to {target} of the weights, rewound to step {step:,}, adaptive pruning takes "
        f"{_trainings_text(adaptive)} trainings after the dense one, the fixed schedule {_trainings_text(fixed)} "
        f"({count(len(adaptive.keys() & fixed.keys()), 'replicate')}). Where they arrive, "
        f"{_percent_spread(c[-1][0] for c in adaptive.values())}% and "
        f"{_percent_spread(c[-1][0] for c in fixed.values())}% of the weights remain, and the test error is "
        f"{_percent_spread(c[-1][1] for c in adaptive.values())}% and "
        f"{_percent_spread(c[-1][1] for c in fixed.values())}%."
    ]
    fractions = data.by("level", experiment="adaptive", variant="adaptive", metric="fraction")
    texts.append(
        "Pruned from level "
        + ", ".join(
            f"{level}: {_percent_spread(values.values(), 0)}%" for (level,), values in sorted(fractions.items())
        )
        + "."
    )
    return texts + _unmet(data) + _time(_seconds(data, adaptive, fixed))


def claims(data: Data) -> list[Claim]:
    """Fewer trainings; no accuracy lost."""
    adaptive, fixed = (_arrived(data, variant) for variant in ("adaptive", "fixed"))
    if not adaptive or not fixed:
        return []
    target = percent(_target(data))
    trainings = [{k: float(len(chain)) for k, chain in chains.items()} for chains in (adaptive, fixed)]
    errors = [{k: chain[-1][1] for k, chain in chains.items()} for chains in (adaptive, fixed)]
    here = [f"{spread(values.values())} against {spread(other.values())}" for values, other in [trainings]]
    return [
        lower(*trainings).claim(
            PAPER,
            "adaptive pruning finds a ticket in fewer trainings than a fixed fraction (7 instead of 11 to about 9% of "
            "the weights, ResNet-18 on CIFAR-100)",
            f"{here[0]} trainings after the dense one to {target} of the weights",
        ),
        *_less_time(_seconds(data, adaptive, fixed)),
        _no_loss(*errors, _dense(data)).claim(
            PAPER,
            "… without losing accuracy",
            f"test error {_percent_spread(errors[0].values())}% against {_percent_spread(errors[1].values())}% at the "
            f"first level with {target} of the weights or less",
        ),
    ]


SECTION = Section("Adaptive pruning", drawings, findings, claims)


def _no_loss(adaptive: Values, fixed: Values, dense: Statistic) -> Judged:
    """Whether the adaptive schedule's error is larger by less than ε."""
    if not dense.std:
        return lower(adaptive, fixed)
    return not_higher(adaptive, fixed, dense.std)


def _chains(data: Data, variant: str) -> dict[int, list[tuple[float, float]]]:
    """By replicate the (density, test error) of each training after the dense one."""
    chains: dict[int, list[tuple[float, float]]] = {}
    rows = data.select(experiment="adaptive", variant=variant, metric="test_error")
    for row in sorted(rows, key=lambda row: row.level):
        chains.setdefault(row.replicate, []).append((row.density, row.value))
    return chains


def _arrived(data: Data, variant: str) -> dict[int, list[tuple[float, float]]]:
    """The chains that reached the density asked for; one that a failed stage cut short is none."""
    return {k: chain for k, chain in _chains(data, variant).items() if chain[-1][0] <= _target(data)}


def _target(data: Data) -> float:
    return float(condition_value(data.select(experiment="adaptive")[0].condition, "target") or 0)


def _step(data: Data) -> int:
    return data.select(experiment="adaptive", variant=("adaptive", "fixed"))[0].rewind_step or 0


def _dense(data: Data) -> Statistic:
    """Of every dense network of the run: ε rests on more of them than the schedules have replicates."""
    rows = data.select(experiment=("imp", "adaptive"), variant="dense", metric="test_error")
    return Statistic.of({row.replicate: row.value for row in rows}.values())


def _trainings_text(chains: Mapping[int, Sequence]) -> str:
    return spread([len(chain) for chain in chains.values()])


def _percent_spread(values, decimals: int = 2) -> str:
    return spread(values, decimals, 100)


def _unmet(data: Data) -> list[str]:
    """Prunings at which the heuristic's ratio was below the least."""
    largest = data.select(experiment="adaptive", metric="largest_fraction")
    pruned = {(row.replicate, row.level): row.value for row in data.select(experiment="adaptive", metric="fraction")}
    short = [row for row in largest if row.value < pruned.get((row.replicate, row.level), 0.0)]
    if not largest:
        return []
    if not short:
        return [
            f"At all {count(len(largest), 'pruning')} the fraction pruned keeps the training loss below the threshold."
        ]
    none = sum(row.value == 0 for row in short)
    return [
        f"At {len(short)} of {count(len(largest), 'pruning')} no fraction that high keeps the training loss below the "
        f"threshold all along the path (at {none} none of those tried at all); the least, "
        f"{percent(min(pruned.values()))}, was pruned there."
    ]


def _seconds(data: Data, adaptive: Mapping[int, Sequence], fixed: Mapping[int, Sequence]) -> dict[str, Values]:
    """By replicate the seconds of searches, adaptive trainings and fixed ones, where the ledger holds all of them."""
    step = _step(data)
    seconds = {entry.label: entry.seconds for entry in data.ledger if entry.status in ("ran", "found")}
    found: dict[str, Values] = {"searches": {}, "adaptive": {}, "fixed": {}}
    for k in sorted(adaptive.keys() & fixed.keys()):
        chains = {"searches": adaptive[k], "adaptive": adaptive[k], "fixed": fixed[k]}
        labels = {
            name: [_LABELS[name].format(k=k, step=step, level=level, next=level + 1) for level in range(len(chain))]
            for name, chain in chains.items()
        }
        if all(label in seconds for of in labels.values() for label in of):
            for name, of in labels.items():
                found[name][k] = sum(seconds[label] for label in of)
    return found


_LABELS = {
    "searches": "adaptive search, replicate {k}, rewind {step}, level {level}",
    "adaptive": "adaptive, replicate {k}, rewind {step}, level {next}",
    "fixed": "replicate {k}, rewind {step}, level {next}",
}


def _ratios(seconds: Mapping[str, Values]) -> Values:
    """The adaptive schedule's time, searches included, as a share of the fixed one's."""
    searches, adaptive, fixed = seconds.values()
    return {k: (searches[k] + adaptive[k]) / fixed[k] for k in fixed if fixed[k]}


def _less_time(seconds: Mapping[str, Values]) -> list[Claim]:
    ratios = _ratios(seconds)
    if not ratios:
        return []
    return [
        lower_than(ratios, 1.0).claim(
            PAPER,
            "… and in less computation time (30% less)",
            f"{spread(ratios.values(), 0, 100)}% of the fixed schedule's seconds on this machine, searches included",
        )
    ]


def _time(seconds: Mapping[str, Values]) -> list[str]:
    """Time and what of it is spent searching."""
    ratios = _ratios(seconds)
    if not ratios:
        return []
    spent = {name: sum(values.values()) for name, values in seconds.items()}
    return [
        f"In time, searches included, adaptive pruning takes {spread(ratios.values(), 0, 100)}% of what the fixed "
        f"schedule's trainings take (seconds of this machine); of that "
        f"{100 * spent['searches'] / (spent['searches'] + spent['adaptive']):.0f}% is spent searching."
    ]


def _errors(axes: "Axes", chains: Mapping[str, Mapping[int, Sequence]], dense: Statistic) -> list[tuple[float, float]]:
    """Draws both schedules; the (density, error) points drawn."""
    drawn: list[tuple[float, float]] = []
    levels: dict[int, list[tuple[float, float]]] = {}
    for chain in chains["fixed"].values():
        for level, point in enumerate(chain):
            levels.setdefault(level, []).append(point)
    means = [(points[0][0], Statistic.of(error for _, error in points)) for _, points in sorted(levels.items())]
    means = [(density, error) for density, error in means if error.n]
    colour, marker = _LOOK["fixed"]
    tops: list[float] = []
    if means:
        values = [100 * error.mean for _, error in means]
        bars = [100 * (error.std or 0) for _, error in means]
        label = f"fixed, {_median_length(chains['fixed'])} trainings"
        axes.errorbar(
            [d for d, _ in means], values, bars, color=colour, marker=marker, elinewidth=0.8, label=label, zorder=3
        )
        drawn += [(density, error.mean) for density, error in means]
        tops = [value + bar for value, bar in zip(values, bars, strict=True)]
    colour, marker = _LOOK["adaptive"]
    label = f"adaptive, {_median_length(chains['adaptive'])} trainings"
    for chain in chains["adaptive"].values():
        points = [(density, error) for density, error in chain if error == error]
        axes.plot(
            *zip(*[(d, 100 * e) for d, e in points], strict=True) if points else ((), ()),
            color=colour, marker=marker, linewidth=0.7, markersize=4.5, label=label, zorder=4,
        )  # fmt: skip
        drawn += points
        label = None
    if dense.n:
        axes.axhline(100 * dense.mean, color=GREY, linewidth=0.8, zorder=1)
        tops.append(100 * (dense.mean + (dense.std or 0)))
        axes.axhspan(100 * dense.mean, tops[-1], color=GREY, alpha=0.25, linewidth=0)
    error_axis(axes, [100 * error for _, error in drawn] or [1.0], tops)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return drawn


def _median_length(chains: Mapping[int, Sequence]) -> str:
    lengths = sorted(len(chain) for chain in chains.values()) or [0]
    return f"{lengths[0]}" if lengths[0] == lengths[-1] else f"{lengths[0]}–{lengths[-1]}"


def _fractions(axes: "Axes", data: Data) -> None:
    colour, marker = _LOOK["adaptive"]
    pruned = data.select(experiment="adaptive", variant="adaptive", metric="fraction")
    largest = data.by("replicate", "level", experiment="adaptive", variant="adaptive", metric="largest_fraction")
    for row in pruned:
        met = largest.get((row.replicate, row.level), {}).get(row.replicate, 0.0) >= row.value
        # White where hollow, for the fixed schedule's line would be seen through it.
        axes.plot(row.density, 100 * row.value, marker, color=colour, markerfacecolor=colour if met else "white",
                  markeredgewidth=1.3, zorder=3)  # fmt: skip
    fixed = _chains(data, "fixed")
    for chain in list(fixed.values())[:1]:
        densities = [1.0, *(density for density, _ in chain)]
        shares = [100 * (1 - after / before) for before, after in itertools.pairwise(densities)]
        axes.plot(densities[:-1], shares, color=_LOOK["fixed"][0], marker="o", markersize=3.5, linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_ylabel("pruned, % of the rest")
