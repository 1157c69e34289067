"""Adaptive pruning against the same fraction at every level (Paul et al. 2022, section 2.2 and Fig. 4).

Both schedules are judged where they first reach the density asked for: fewer trainings, 30% less time (searches
included, seconds in the ledger, which are one machine's), and no accuracy lost. See `sparselt.report.rules`.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Claim, Data, Drawing, Section, listed, once
from sparselt.report.results import conditions
from sparselt.report.rules import LESS_COMPUTATION, below, dense_errors, epsilon, lower
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import count, every, level_name, percent

PAPER = "Paul et al. 2022 (Unmasking)"
_LOOKS = {"fixed": draw.Look("fixed", draw.COLOURS[1], "o"), "adaptive": draw.Look("adaptive", draw.COLOURS[0], "D")}
_LABELS = {
    "searches": "adaptive search, replicate {k}, rewind {step}, level {level}",
    "adaptive": "adaptive, replicate {k}, rewind {step}, level {next}",
    "fixed": "replicate {k}, rewind {step}, level {next}",
}
"""How the ledger names the stages of a level."""

Chains = Mapping[int, Sequence[tuple[float, float]]]
"""By replicate the (density, test error) of each training after the dense one."""


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against weights remaining for both schedules, and below it what each level pruned."""
    fixed, adaptive = (_chains(data, variant) for variant in _LOOKS)
    if not fixed and not adaptive:
        return {}
    figure, (top, bottom) = draw.canvas(5.2, 2, sharex=True, height_ratios=(3, 2))
    drawn = _errors(top, fixed, adaptive, _dense(data))
    _fractions(bottom, data, fixed)
    sparsest = min([1.0, *drawn])
    draw.density_axis(bottom, _ticks(fixed, sparsest), 1.04, sparsest / 1.08)
    caption = (
        "After Fig. 4 of Unmasking: a marker is a training. Above: test error; the fixed schedule's mean and standard "
        "deviation, and every replicate of the adaptive one, thin, for their densities differ. Grey: the dense mean "
        "and ε above it. Below, in the PNG and SVG: the fraction of the remaining weights that each level pruned; "
        "hollow where no fraction above the least kept the training loss below the threshold all along the path."
    )
    return {"adaptive_pruning": Drawing(figure, "Adaptive and fixed pruning", caption, _chart(data, fixed, adaptive))}


@listed
def findings(data: Data) -> Iterator[str]:
    """Trainings, errors, what was pruned at each level, where nothing could be, and time with the search."""
    adaptive, fixed = (_arrived(data, variant) for variant in ("adaptive", "fixed"))
    if not adaptive or not fixed:
        yield "No replicate of both schedules reached the density asked for, so they cannot be compared."
        return
    trainings, densities = _each((adaptive, fixed), len), _each((adaptive, fixed), lambda chain: chain[-1][0])
    errors = _each((adaptive, fixed), lambda chain: chain[-1][1])
    yield (
        f"Down to {percent(_target(data))} of the weights, rewound to step {_step(data):,}, adaptive pruning takes "
        f"{trainings[0]:.1f} trainings after the dense one, the fixed schedule "
        f"{trainings[1]:.1f} ({count(len(adaptive.keys() & fixed.keys()), 'replicate')}). Where they "
        f"arrive, {densities[0]:.2%} and {densities[1]:.2%} of the weights remain, and the test error is "
        f"{errors[0]:.2%} and {errors[1]:.2%}."
    )
    fractions = data.by("level", experiment="adaptive", variant="adaptive", metric="fraction")
    pruned = [f"{level}: {values:.0%}" for level, values in sorted(fractions.items())]
    yield f"Pruned from level {', '.join(pruned)}."
    yield from _unmet(data)
    if ratios := _ratios(data):
        spent = {name: sum(values.values()) for name, values in _seconds(data).items()}
        share = spent["searches"] / (spent["searches"] + spent["adaptive"])
        yield (
            f"In time, searches included, adaptive pruning takes {ratios:.0%} of what the fixed schedule's "
            f"trainings take (seconds of this machine); of that {100 * share:.0f}% is spent searching."
        )


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Fewer trainings; 30% less time; no accuracy lost."""
    adaptive, fixed = (_arrived(data, variant) for variant in ("adaptive", "fixed"))
    if not adaptive or not fixed:
        return
    target, dense = percent(_target(data)), _dense(data)
    trainings, errors = _each((adaptive, fixed), len), _each((adaptive, fixed), lambda chain: chain[-1][1])
    yield lower(*trainings).claim(
        PAPER,
        "adaptive pruning finds a ticket in fewer trainings than a fixed fraction (7 instead of 11 to about 9% of the "
        "weights, ResNet-18 on CIFAR-100, Fig. 4)",
        f"{trainings[0]:.1f} against {trainings[1]:.1f} trainings after the dense one to {target} of the weights",
    )
    if ratios := _ratios(data):
        yield below(ratios, LESS_COMPUTATION).claim(
            PAPER,
            "… and in 30% less computation time",
            f"{ratios:.0%} of the fixed schedule's seconds on this machine, searches included",
        )
    yield below(errors[0] - errors[1], epsilon(dense)).claim(
        PAPER,
        "… without losing accuracy",
        f"test error {errors[0]:.2%} against {errors[1]:.2%} at the first level with {target} of the weights or less",
    )


SECTION = Section("Adaptive pruning", drawings, findings, claims)


def _chains(data: Data, variant: str) -> Chains:
    chains: dict[int, list[tuple[float, float]]] = defaultdict(list)
    rows = data.select(experiment="adaptive", variant=variant, metric="test_error")
    for row in sorted(rows, key=lambda row: row.level):
        chains[row.replicate].append((row.density, row.value))
    return chains


def _arrived(data: Data, variant: str) -> Chains:
    """The chains that reached the density asked for, as one that a failed stage cut short does not."""
    return {k: chain for k, chain in _chains(data, variant).items() if chain[-1][0] <= _target(data)}


def _each(schedules: Sequence[Chains], of: Callable[[Sequence[tuple[float, float]]], float]) -> list[Values]:
    """A number of each chain, by schedule and replicate."""
    return [Values({k: of(chain) for k, chain in chains.items()}) for chains in schedules]


def _target(data: Data) -> float:
    """The density asked for."""
    return float(conditions(data.select(experiment="adaptive")[0].condition).get("target", 0))


def _step(data: Data) -> int:
    return data.select(experiment="adaptive", variant=("adaptive", "fixed"))[0].rewind_step or 0


def _dense(data: Data) -> Statistic:
    """Of every dense network of the run: ε rests on more of them than the schedules have replicates."""
    own = data.values(experiment="adaptive", variant="dense", metric="test_error")
    return Values(own | dense_errors(data)).statistic


def _unmet(data: Data) -> Iterator[str]:
    """Prunings at which the heuristic's ratio was below the least."""
    largest = data.select(experiment="adaptive", metric="largest_fraction")
    pruned = {(row.replicate, row.level): row.value for row in data.select(experiment="adaptive", metric="fraction")}
    short = [row for row in largest if row.value < pruned.get((row.replicate, row.level), 0.0)]
    if largest and not short:
        yield f"At {every(len(largest), 'pruning')} the fraction pruned keeps the training loss below the threshold."
    elif largest:
        none = sum(row.value == 0 for row in short)
        tried = f" (at {none} none of those tried at all)" if none else ""
        yield (
            f"At {len(short)} of {count(len(largest), 'pruning')} no fraction that high keeps the training loss below "
            f"the threshold all along the path{tried}; "
            f"the least, {percent(min(pruned.values()))}, was pruned there."
        )


@once
def _seconds(data: Data) -> dict[str, Values]:
    """By replicate the seconds of searches, adaptive trainings and fixed ones, where the ledger holds all of them."""
    step, adaptive, fixed = _step(data), _arrived(data, "adaptive"), _arrived(data, "fixed")
    seconds = {entry.label: entry.seconds for entry in data.ledger if entry.status in ("ran", "found")}
    found = {name: Values() for name in _LABELS}
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


def _ratios(data: Data) -> Values:
    """The adaptive schedule's time, searches included, as a share of the fixed one's."""
    searches, adaptive, fixed = _seconds(data).values()
    return Values({k: (searches[k] + adaptive[k]) / fixed[k] for k in fixed if fixed[k]})


def _ticks(fixed: Chains, sparsest: float) -> list[float]:
    """The densities of the fixed schedule, as the other figures have them, and on at its pace to the sparsest network;
    round ones without it, for those of adaptive chains lie anywhere."""
    if not fixed:
        return [1.0, *(number / 100 for number in draw.round_numbers(100 * sparsest, 99, (1, 2, 3, 5, 7)))]
    places = [1.0, *(density for density, _ in max(fixed.values(), key=len))]
    pace = places[-1] / places[-2]
    while pace < 1 and places[-1] * pace >= sparsest:
        places.append(places[-1] * pace)
    return places


def _errors(axes: "draw.Axes", fixed: Chains, adaptive: Chains, dense: Statistic) -> list[float]:
    """Draws both schedules; the densities drawn."""
    levels: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for chain in fixed.values():
        for level, point in enumerate(chain):
            levels[level].append(point)
    means = {points[0][0]: Statistic.of(error for _, error in points) for _, points in sorted(levels.items())}
    means = {density: error for density, error in means.items() if error.n}
    draw.bars(axes, [(_LOOKS["fixed"]._replace(label=f"fixed, {_lengths(fixed)}"), means.items())], zorder=3)
    look, label = _LOOKS["adaptive"], f"adaptive, {_lengths(adaptive)}"
    points: list[tuple[float, float]] = []
    for chain in adaptive.values():
        own = [(density, error) for density, error in chain if error == error]
        how: dict[str, Any] = look._replace(label="" if points else label).style
        axes.plot([d for d, _ in own], [100 * e for _, e in own], linewidth=0.7, markersize=4.5, zorder=4, **how)
        points += own
    tops = [100 * (dense.mean + (dense.std or 0))] if dense.n else []
    for top in tops:
        axes.axhline(100 * dense.mean, color=draw.GREY, linewidth=0.8, zorder=1)
        axes.axhspan(100 * dense.mean, top, color=draw.GREY, alpha=0.25, linewidth=0)
    drawn = [*means.values(), *(Statistic.of([error]) for _, error in points)]
    draw.error_axis(axes, drawn or [Statistic.of([0.01])], tops)
    # Above the axes: inside, it would hide lines.
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return [*means, *(density for density, _ in points)]


def _lengths(chains: Chains) -> str:
    """`11 trainings`, `4–5 trainings`."""
    lengths = [len(chain) for chain in chains.values()] or [0]
    return ("" if min(lengths) == max(lengths) else f"{min(lengths)}–") + count(max(lengths), "training")


def _chart(data: Data, fixed: Chains, adaptive: Chains) -> Chart:
    """The errors: those of the fixed schedule by level, and each replicate of the adaptive one, as in the figure."""
    names = {}
    errors: dict[float, Values] = defaultdict(Values)
    densities: dict[int, float] = {}
    for replicate, chain in fixed.items():
        for level, (density, error) in enumerate(chain, 1):
            errors[densities.setdefault(level, density)][replicate] = error
            names[densities[level]] = level_name(level, densities[level])
    lines: list[tuple[draw.Look, Mapping[float, Values]]] = [(_LOOKS["fixed"], errors)]
    for replicate, chain in adaptive.items():
        look = _LOOKS["adaptive"]._replace(label=f"adaptive, replicate {replicate}")
        lines.append((look, {density: Values({replicate: error}) for density, error in chain}))
        names |= {density: f"{percent(density)} of the weights" for density, _ in chain}
    return Chart(lines, names, _dense(data))


def _fractions(axes: "draw.Axes", data: Data, fixed: Chains) -> None:
    look = _LOOKS["adaptive"]
    tried = data.select(experiment="adaptive", variant="adaptive", metric="largest_fraction")
    largest = {(row.replicate, row.level): row.value for row in tried}
    for row in data.select(experiment="adaptive", variant="adaptive", metric="fraction"):
        met = largest.get((row.replicate, row.level), 0.0) >= row.value
        # White where hollow, for the fixed schedule's line would be seen through it.
        face = look.colour if met else "white"
        how: dict[str, Any] = {"color": look.colour, "markerfacecolor": face, "markeredgewidth": 1.3, "zorder": 3}
        axes.plot(row.density, 100 * row.value, look.marker, **how)
    for chain in list(fixed.values())[:1]:
        densities = [1.0, *(density for density, _ in chain)]
        shares = [100 * (1 - after / before) for before, after in itertools.pairwise(densities)]
        axes.plot(densities[:-1], shares, color=_LOOKS["fixed"].colour, marker="o", markersize=3.5, linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_ylabel("pruned, % of the rest")
