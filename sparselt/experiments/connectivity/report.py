"""Linear connectivity of levels and of copies (Paul et al. 2022, Figs. 2 and 6; Frankle et al. 2020).

Connected if and only if both match (Paul et al., level 0 apart, appendix D), counted over pairs of successive levels at
all rewind steps, on means over replicates: `verdicts.coincidence` of matching with a barrier below 2 points; in doubt
are pairs that hang on a level within a standard error of matching. Pairs of one rewind step are not independent.
Piecewise connected: the mean barrier over levels from 1 on, by replicate, is lower at the last rewind step than at step
0 (one-sided paired t); over the pairs that match at the last step it is below the 2 points of Linear Mode Connectivity
(one-sided t). Stable: instability, the largest error between two copies minus the mean of their own, is lower at the
last rewind step than at the first (one-sided paired t).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sparselt.report.drawing import COLOURS, GREY, barrier_axis, label_ends, ticks
from sparselt.report.findings import agreements
from sparselt.report.section import Claim, Data, Drawing, Section
from sparselt.report.summary import NEAR_ZERO_BARRIER, Statistic
from sparselt.report.verdicts import PAIRS_OF_LEVELS, Values, coincidence, in_doubt, lower, lower_than, spread
from sparselt.report.wording import count, mean_and_std, percent, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAUL = "Paul et al. 2022 (Unmasking)"
LMC = "Frankle et al. 2020 (Linear Mode Connectivity)"
PAIRS = "between=levels"
COPIES = "between=copies"
_LOOKS = {"dense": (GREY, "x", "--"), "imp": (COLOURS[1], "o", "-"), "random": (COLOURS[0], "s", ":")}
_NAMES = {"dense": "dense", "imp": "IMP", "random": "random mask"}


def drawings(data: Data) -> dict[str, Drawing]:
    """The heat map over all pairs of levels, and instability against the rewind step."""
    found = {}
    if _finite(_pairs(data, "max_error")):
        found["heat_map"] = Drawing(_heat_map(data), "Between all pairs of levels", _heat_map_caption(data))
    if any(math.isfinite(Statistic.of(values.values()).mean) for values in _instability(data).values()):
        found["instability"] = Drawing(_instability_figure(data), *_INSTABILITY)
    return found


def findings(data: Data) -> list[str]:
    """How far levels stay connected, and which copies end in one place."""
    return [*_far_pairs(data), *_copies(data)]


def claims(data: Data) -> list[Claim]:
    """Connected exactly where both match; barriers at step 0 and not later; instability falls with the rewind step."""
    return [*_coincidence(data), *_piecewise(data), *_stability(data)]


SECTION = Section("Connectivity of distant levels, and of copies in another data order", drawings, findings, claims)

_INSTABILITY = (
    "Instability to SGD noise",
    "Two copies of a network start from the same step and differ in data order and augmentation. Instability: the "
    "largest error on the straight line between their solutions, minus the mean of their own errors. Lines: means; "
    f"short dashes: replicates. Dashed line: the {points(NEAR_ZERO_BARRIER, 0)} points below which Linear Mode "
    "Connectivity (Frankle et al. 2020) speaks of stability.",
)


def _coincidence(data: Data) -> Iterator[Claim]:
    found = agreements(data.levels)
    if not found:
        return
    names = ("matching_connected", "matching_separated", "failing_connected", "failing_separated")
    places = [[(a.rewind_step, level) for a in found for level in getattr(a, name)] for name in names]
    cells = [len(pairs) for pairs in places]
    doubtful = [sum(data.levels.in_doubt(*pair) for pair in pairs) for pairs in places]
    here = (
        f"both or neither at {cells[0] + cells[3]} of {count(sum(cells), 'pair')}: of {cells[0] + cells[1]} that match "
        f"{cells[0]} without a barrier, of {cells[2] + cells[3]} that do not {cells[3]} with one"
        f"{in_doubt(doubtful)}"
    )
    claim = (
        "at higher sparsities (here: level 0 apart) successive levels are linearly connected without a barrier if and "
        "only if both match"
    )
    replicates = len({row.replicate for row in data.select(experiment="connectivity", variant="imp", metric="barrier")})
    yield coincidence(cells, doubtful, PAIRS_OF_LEVELS, replicates).claim(PAUL, claim, here)


def _piecewise(data: Data) -> Iterator[Claim]:
    lines = data.select(experiment="connectivity", variant="imp", condition="", metric="barrier")
    steps = sorted({row.rewind_step for row in lines if row.rewind_step is not None})
    if not steps:
        return
    barriers = {step: _mean_barrier(data, step, lambda level: level > 0) for step in steps}
    if 0 in steps and steps[-1] > 0 and barriers[0] and barriers[steps[-1]]:
        yield lower(barriers[steps[-1]], barriers[0]).claim(
            PAUL,
            "the solutions of successive levels are piecewise linearly connected where IMP rewinds to a matching step, "
            "and are not where it rewinds to initialization",
            f"mean barrier {spread(barriers[steps[-1]].values(), 1, 100)} points rewound to step {steps[-1]:,}, "
            f"{spread(barriers[0].values(), 1, 100)} to step 0",
        )
    together = [agreement for agreement in agreements(data.levels) if agreement.rewind_step == steps[-1]]
    matching = {n for agreement in together for n in agreement.matching_connected + agreement.matching_separated}
    if matching:
        values = _mean_barrier(data, steps[-1], lambda level: level in matching)
        yield lower_than(values, NEAR_ZERO_BARRIER).claim(
            PAUL,
            "between successive levels that both match there is no error barrier",
            f"mean barrier {spread(values.values(), 2, 100)} points over {count(len(matching), 'pair')} that match, "
            f"rewound to step {steps[-1]:,}",
        )


def _stability(data: Data) -> Iterator[Claim]:
    found = _instability(data)
    for variant, level in sorted({(variant, level) for variant, level, _ in found}):
        steps = sorted(step for other, at, step in found if (other, at) == (variant, level))
        if variant == "random" or len(steps) < 2:
            continue
        first, last = found[variant, level, steps[0]], found[variant, level, steps[-1]]
        what = "the dense network" if variant == "dense" else "the subnetwork that IMP finds"
        yield lower(last, first).claim(
            LMC,
            f"{what} becomes stable to SGD noise when its copies part later in training",
            f"instability {spread(first.values(), 1, 100)} points from step {steps[0]:,}, "
            f"{spread(last.values(), 1, 100)} from step {steps[-1]:,}"
            + (f", at {percent(density)} of the weights" if (density := _density(data, level)) else ""),
        )


def _far_pairs(data: Data) -> Iterator[str]:
    barriers = _finite(_pairs(data, "barrier"))
    if not barriers:
        return
    near = sum(value < NEAR_ZERO_BARRIER for value in barriers.values())
    farthest = max(barriers, key=lambda pair: pair[1] - pair[0])
    worst = max(barriers, key=lambda pair: barriers[pair])
    threshold = data.levels.threshold
    epsilon = data.levels.epsilon
    within = "" if epsilon is None else f", {sum(value < epsilon for value in barriers.values())} below ε"
    text = (
        f"Of {count(len(barriers), 'pair')} of levels, rewound to step {_last(data):,}, {near} have a mean barrier "
        f"below {points(NEAR_ZERO_BARRIER, 0)} points on the straight line{within}; from level {farthest[0]} to "
        f"{farthest[1]} it is {points(barriers[farthest], 1)}, and it is largest, {points(barriers[worst], 1)}, from "
        f"level {worst[0]} to {worst[1]}."
    )
    errors = _finite(_pairs(data, "max_error"))
    if threshold is not None:
        inside = sum(value <= threshold for (first, second), value in errors.items() if first < second)
        text += f" On {inside} of these lines the mean of the largest error is itself a matching one."
    yield text


def _copies(data: Data) -> Iterator[str]:
    found = _instability(data)
    for variant, level in sorted({(variant, level) for variant, level, _ in found}):
        texts = [
            f"{mean_and_std(Statistic.of(values.values()), 1)} from step {step:,}"
            for (other, at, step), values in sorted(found.items())
            if (other, at) == (variant, level)
        ]
        yield f"Instability of {_name(data, variant, level)}, in points: {', '.join(texts)}."


def _heat_map_caption(data: Data) -> str:
    darkest = (
        f"{points(NEAR_ZERO_BARRIER, 0)} points"
        if not data.levels.epsilon
        else f"ε = {points(data.levels.epsilon)} points, the rise that Unmasking's Def. A.1 allows a line without a "
        "barrier"
    )
    return (
        "After Fig. 2 of Unmasking, right: the last rewind step, means over replicates. The largest error on the "
        "straight line between the solutions of two levels; darkest at the matching error, dense mean + ε, or below. "
        f"And the error barrier on that line; darkest up to {darkest}. Logarithmic colours; grey: not measured, or "
        "diverged."
    )


def _heat_map(data: Data) -> "Figure":
    import matplotlib
    import numpy as np
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    threshold = data.levels.threshold
    maps = {"largest error, %": _pairs(data, "max_error"), "error barrier, points": _pairs(data, "barrier")}
    maps = {label: values for label, values in maps.items() if _finite(values)}
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (label, values) in zip(panels, maps.items(), strict=True):
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#b0b0b0")
        size = max(level for pair in values for level in pair) + 1
        picture = np.full((size, size), np.nan)
        for (first, second), value in values.items():
            picture[first, second] = picture[second, first] = 100 * value
        floor = 100 * (data.levels.epsilon or NEAR_ZERO_BARRIER)
        if label == "largest error, %":
            floor = 100 * (threshold if threshold else min(_finite(values).values(), default=0.01))
        else:
            np.fill_diagonal(picture, 0.0)
        floor = max(floor, 1e-3)
        highest = float(np.nanmax(picture))
        top = max(highest, 2 * floor)
        picture = np.ma.masked_invalid(np.where(picture < floor, floor, picture))
        if highest <= floor:
            colours = ListedColormap([colours(0.0)]).with_extremes(bad="#b0b0b0")
        how = {"cmap": colours, "norm": LogNorm(floor, top), "origin": "lower", "interpolation": "nearest"}
        shown = axes.imshow(picture, **how)
        ticks(axes, {level: str(level) for level in range(size)})
        axes.set_yticks(range(size), axes.get_xticklabels())
        axes.set_xlabel("level")
        axes.set_ylabel("level")
        bar = figure.colorbar(shown, ax=axes, shrink=0.72, label=label)
        _plain_ticks(bar, floor, top, everything_below=highest <= floor)
    return figure


def _plain_ticks(bar, floor: float, top: float, everything_below: bool) -> None:
    if everything_below:
        bar.set_ticks([math.sqrt(floor * top)], labels=[f"all ≤ {floor:.2g}"])
        bar.ax.tick_params(length=0)
        bar.ax.minorticks_off()
        return
    places = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]
    places = [place for place in places if 1.15 * floor < place < top / 1.15]
    texts = [f"≤ {floor:.2g}", *(f"{place:g}" for place in places), f"{top:.2g}"]
    bar.set_ticks([floor, *places, top], labels=texts)
    bar.ax.minorticks_off()


def _instability_figure(data: Data) -> "Figure":
    from matplotlib.figure import Figure

    found = _instability(data)
    curves: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(dict)
    for (variant, level, step), values in sorted(found.items()):
        finite = [100 * value for value in values.values() if math.isfinite(value)]
        if finite:
            curves[variant, level][step] = finite
    steps = sorted({step for curve in curves.values() for step in curve})
    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    labels = []
    levels = sorted({level for _, level in curves})
    for place, ((variant, level), curve) in enumerate(curves.items()):
        colour, marker, line = _LOOKS[variant]
        shift = 0.05 * (place - (len(curves) - 1) / 2)
        x = [steps.index(step) + shift for step in curve]
        y = [sum(values) / len(values) for values in curve.values()]
        for at, values in zip(x, curve.values(), strict=True):
            axes.plot([at] * len(values), values, "_", color=colour, alpha=0.7, markersize=5)
        axes.plot(x, y, color=colour, marker=marker, linestyle=line, alpha=1 - 0.5 * levels.index(level) / len(levels))
        labels.append((_name(data, variant, level, short=True), colour, y[-1]))
    barrier_axis(axes, max(value for curve in curves.values() for values in curve.values() for value in values))
    axes.set_ylabel(axes.get_ylabel().replace("error barrier", "instability"))
    axes.set_xlim(-0.3, len(steps) - 0.7)
    ticks(axes, {place: f"{step:,}" for place, step in enumerate(steps)})
    axes.set_xlabel("step from which the copies part")
    label_ends(axes, labels)
    return figure


def _pairs(data: Data, metric: str) -> dict[tuple[int, int], float]:
    """Means over replicates, by the two levels; NaN where every replicate diverged."""
    found = data.by("level", "to_level", experiment="connectivity", condition=PAIRS, metric=metric)
    return {pair: Statistic.of(values.values()).mean for pair, values in found.items()}


def _finite(values: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    return {pair: value for pair, value in values.items() if math.isfinite(value)}


def _instability(data: Data) -> dict[tuple[str, int, int], dict[int, float]]:
    """By variant, level and rewind step, over replicates."""
    columns = {"experiment": "connectivity", "condition": COPIES, "metric": "instability"}
    return data.by("variant", "level", "rewind_step", **columns)


def _mean_barrier(data: Data, step: int, of: Callable[[int], bool]) -> Values:
    """The mean barrier between successive levels, by replicate; NaN where one is."""
    found = data.by("level", experiment="connectivity", variant="imp", condition="", metric="barrier", rewind_step=step)
    gathered: dict[int, list[float]] = defaultdict(list)
    for (level,), values in found.items():
        if of(level):
            for replicate, value in values.items():
                gathered[replicate].append(value)
    return {replicate: sum(values) / len(values) for replicate, values in gathered.items()}


def _last(data: Data) -> int:
    return max(row.rewind_step or 0 for row in data.select(experiment="connectivity", condition=PAIRS))


def _density(data: Data, level: int) -> float | None:
    rows = data.select(experiment="connectivity", condition=COPIES, level=level)
    return rows[0].density if level and rows else None


def _name(data: Data, variant: str, level: int, *, short: bool = False) -> str:
    density = _density(data, level)
    if variant == "dense" or density is None:
        return _NAMES[variant] if short else "the dense network"
    if short:
        return f"{_NAMES[variant]}, {percent(density)}"
    what = "IMP's subnetwork" if variant == "imp" else "a random mask"
    return f"{what} at {percent(density)} of the weights"
