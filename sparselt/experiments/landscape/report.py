"""The landscape between a level and the next (Paul et al. 2022, Def. 2.1, Figs. 3, 7 and 8).

A network is in the LCS-set of w(L) where the largest error on the straight line to it is at most E(w(L)) + ε; here the
means over replicates of that largest error and of E(w(L)) are compared, ε being the standard deviation of the dense
error. The next solution is in the set exactly where both levels match (level 0 apart, as for the barrier), over pairs
of levels at all rewind steps: `verdicts.coincidence`; in doubt are pairs that hang on a level within a standard error
of matching, or whose rise is within one of ε. The projection leaves the set as sparsity grows: at the last rewind step,
Spearman's rank correlation between the level and the rise of the error on the way to the projection is above zero over
replicates (one-sided t); the first projection has to be in the set.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.report.drawing import COLOURS, GREY, INK, label_ends, level_axis
from sparselt.report.results import Row
from sparselt.report.section import Claim, Data, Drawing, Section
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import PAIRS_OF_LEVELS, Values, coincidence, in_doubt, lower, spread
from sparselt.report.wording import count, ranges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

PAPER = "Paul et al. 2022 (Unmasking)"
LINES = {"projection": "its projection", "next": "the next solution"}
_ROUNDING = 1e-12


def drawings(data: Data) -> dict[str, Drawing]:
    """A figure of planes for each replicate that has any, and the rise of the error along the lines."""
    found = {}
    planes = sorted({row.replicate for row in data.select(experiment="landscape", metric="plane_error")})
    for replicate in planes:
        name = "planes" if replicate == planes[0] else f"planes_replicate_{replicate}"
        heading = "The plane through a solution, its projection and the next solution"
        found[name] = Drawing(_planes(data, replicate), f"{heading}, replicate {replicate}", _PLANES)
    if any(
        math.isfinite(value) for line in LINES for values in _rises(data, line).values() for value in values.values()
    ):
        found["rise_along_lines"] = Drawing(_lines(data), "Rise of the error from a solution", _LINES)
    return found


def findings(data: Data) -> list[str]:
    """At which levels the projection and the next solution lie in the LCS-set."""
    if data.levels.epsilon is None:
        return ["LCS-sets cannot be judged: ε, the standard deviation of the dense error, takes two finite dense runs."]
    texts = []
    for step in sorted({step for step, _ in _rises(data, "next")}):
        parts = []
        for line, name in LINES.items():
            inside = {level: _inside(data, line, step, level) for at, level in _rises(data, line) if at == step}
            levels = sorted(level for level, held in inside.items() if held)
            parts.append(
                f"{name} at {len(levels)} of {count(len(inside), 'level')} ({ranges(levels) if levels else 'none'})"
            )
        texts.append(
            f"Rewound to step {step:,}, the LCS-set of a solution holds, on average, {' and '.join(parts)}; counted "
            f"one by one, {_one_by_one(data, step)}."
        )
    return texts


def claims(data: Data) -> list[Claim]:
    """The next solution is in the set where both match; the projection leaves it with sparsity."""
    if data.levels.epsilon is None:
        return []
    return [*_next_solutions(data), *_projections(data)]


SECTION = Section("The error landscape between a level and the next", drawings, findings, claims)

_PLANES = (
    "After Fig. 3 of Unmasking. Test error, logarithmic colours; white line: the matching error, dense mean + ε; "
    "dotted orange: the LCS-set of w(L), which straight lines from w(L) reach without an error above its own + ε; a "
    "panel that lies in it as a whole says so. Grey triangle: w(L); orange cross: its projection by the next mask; "
    "orange triangle: w(L+1). Dashed: the line through the last two, in the subspace of the next mask. Units are "
    "distances between parameters; the direction to w(L) is drawn twice as long, or less where it would not fit. "
    "Outside the triangle of the three, only prunable parameters are extrapolated; all others, batch-norm statistics "
    "included, are those of its nearest point. Hence a sharp-edged wedge of high error, above and right of w(L+1), "
    "where its mask silenced channels: the statistics there are w(L+1)'s alone, and as these channels have almost no "
    "variance, batch norm magnifies what comes through their pruned weights, which return above the dashed line."
)
_LINES = (
    "How far the error rises above that of w(L) on the straight line to its projection by the next mask, and to the "
    "next solution w(L+1). Lines: means; short dashes: replicates. In the grey band, up to ε, the end of the line is "
    "in the LCS-set of w(L). Linear to 1 point, logarithmic above."
)


@dataclass(frozen=True)
class _Grid:
    """The errors of a plane, and where its networks stand."""

    x: "ndarray"
    y: "ndarray"
    errors: "ndarray"
    networks: Mapping[str, tuple[float, float]]
    start: float


def _next_solutions(data: Data) -> Iterator[Claim]:
    summary = data.levels
    cells = {(matching, inside): 0 for matching in (True, False) for inside in (True, False)}
    doubtful = dict(cells)
    for step, level in _rises(data, "next"):
        ends = [entry for entry in summary.select("imp", step) if entry.level in (level, level + 1)]
        inside = _inside(data, "next", step, level)
        if level > 0 and len(ends) == 2 and inside is not None and None not in (end.matching for end in ends):
            cell = all(end.matching for end in ends), inside
            cells[cell] += 1
            doubtful[cell] += summary.in_doubt(step, level) or _near_the_edge(data, step, level)
    if not any(cells.values()):
        return
    here = (
        f"of {count(cells[True, True] + cells[True, False], 'pair')} that match {cells[True, True]} inside, of "
        f"{cells[False, True] + cells[False, False]} that do not {cells[False, False]} outside"
        f"{in_doubt([*doubtful.values()], ' or a rise so near to ε')}"
    )
    replicates = len(set().union(*_rises(data, "next").values()))
    yield coincidence([*cells.values()], [*doubtful.values()], PAIRS_OF_LEVELS, replicates).claim(
        PAPER, "the next solution lies in the LCS-set of w(L) if and only if IMP succeeds (here: level 0 apart)", here
    )


def _near_the_edge(data: Data, step: int, level: int) -> bool:
    """Whether the mean rise on the way to the next solution is within its standard error of ε."""
    rise = Statistic.of(_rises(data, "next")[step, level].values())
    return not rise.diverged and abs(rise.mean - data.levels.epsilon) <= (rise.std or 0.0) / math.sqrt(rise.n)


def _projections(data: Data) -> Iterator[Claim]:
    rises = _rises(data, "projection")
    if not rises:
        return
    step = max(step for step, _ in rises)
    levels = sorted(level for at, level in rises if at == step)
    correlations = _correlations({level: rises[step, level] for level in levels})
    judged = lower(dict.fromkeys(correlations, 0.0), correlations)
    if judged.p is not None:
        judged = dataclasses.replace(judged, statistic=f"Spearman's ρ by replicate, {judged.statistic}")
    inside = [level for level in levels if _inside(data, "projection", step, level)]
    if levels[0] not in inside and judged.verdict == "agrees":
        judged = dataclasses.replace(judged, verdict="does not agree")
    yield judged.claim(
        PAPER,
        "at first the projection of w(L) by the next mask stays in its LCS-set, and leaves it as sparsity grows",
        f"rewound to step {step:,}, inside from level {ranges(inside) if inside else 'none'} of {ranges(levels)}; "
        f"ρ = {spread(correlations.values(), 2)}",
    )


def _correlations(rises: Mapping[int, Values]) -> Values:
    """Spearman's rank correlation of rise and level, by replicate; those where nothing varies are left out."""
    from scipy import stats

    found = {}
    for replicate in sorted(set().union(*(values.keys() for values in rises.values()))):
        pairs = [(level, values[replicate]) for level, values in rises.items() if replicate in values]
        pairs = [(level, value) for level, value in pairs if math.isfinite(value)]
        if len(pairs) > 2 and len({value for _, value in pairs}) > 1:
            found[replicate] = float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    return found


def _one_by_one(data: Data, step: int) -> str:
    texts = []
    for line, name in LINES.items():
        values = [v for (at, _), found in _rises(data, line).items() if at == step for v in found.values()]
        held = sum(value <= data.levels.epsilon + _ROUNDING for value in values)
        texts.append(f"{name} in {held} of {len(values)}")
    return " and ".join(texts)


def _rises(data: Data, line: str) -> dict[tuple[int, int], dict[int, float]]:
    """How far the error rises above w(L)'s on a line, by rewind step and level, over replicates; NaN if it diverged."""
    where = {"experiment": "landscape", "condition": f"line={line}"}
    largest = data.by("rewind_step", "level", metric="max_error", **where)
    start = data.by("rewind_step", "level", metric="path_error", position=0.0, **where)
    return {
        place: {k: value - start.get(place, {}).get(k, math.nan) for k, value in values.items()}
        for place, values in sorted(largest.items())
    }


def _inside(data: Data, line: str, step: int, level: int) -> bool | None:
    """Whether the line's end is in the LCS-set on average; None where that is not known."""
    rise = Statistic.of(_rises(data, line).get((step, level), {}).values())
    if data.levels.epsilon is None or not (rise.n or rise.diverged):
        return None
    return not rise.diverged and rise.mean <= data.levels.epsilon + _ROUNDING


def _lines(data: Data) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.0), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    steps = data.levels.rewind_steps or sorted({step for step, _ in _rises(data, "next")})
    largest, last = 0.0, 0
    ends = []
    for axes, (line, name) in zip(panels, LINES.items(), strict=True):
        labels = []
        for place, step in enumerate(steps):
            curve = {level: values for (at, level), values in _rises(data, line).items() if at == step}
            colour, shift = COLOURS[place % len(COLOURS)], 0.12 * (place - (len(steps) - 1) / 2)
            means = {level: 100 * Statistic.of(values.values()).mean for level, values in curve.items()}
            means = {level: mean for level, mean in means.items() if math.isfinite(mean)}
            for level, values in curve.items():
                dashes = [100 * value for value in values.values() if math.isfinite(value)]
                axes.plot([level + shift] * len(dashes), dashes, "_", color=colour, alpha=0.6, markersize=5)
                largest, last = max([largest, *dashes]), max(last, level)
            axes.plot([level + shift for level in means], list(means.values()), color=colour, marker="o")
            if means:
                labels.append((f"rewind {step:,}", colour, means[max(means)]))
        if data.levels.epsilon is not None:
            axes.axhspan(0, 100 * data.levels.epsilon, color=GREY, alpha=0.25, linewidth=0, zorder=0)
        axes.set_ylabel(f"rise to {name},\npoints (linear to 1,\nthen log)")
        ends.append(labels)
    _rise_axis(panels[0], largest)
    level_axis(panels[1], data.levels, last)
    panels[1].set_xlim(-0.3, last + 0.3)
    for axes, labels in zip(panels, ends, strict=True):
        label_ends(axes, labels)
    return figure


def _rise_axis(axes: "Axes", largest: float) -> None:
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(-0.08, max(1.25 * largest, 1.0))


def _planes(data: Data, replicate: int) -> "Figure":
    """A panel for each rewind step (down) and level (across)."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rows = data.select(experiment="landscape", replicate=replicate, condition="plane=grid")
    places: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        places.setdefault((row.rewind_step, row.level), []).append(row)
    measured = {(row.rewind_step, row.level) for row in rows if row.metric == "plane_error"}
    grids = {place: _grid(found) for place, found in sorted(places.items()) if place in measured}
    steps, levels = (sorted({place[axis] for place in grids}) for axis in (0, 1))
    finite = [float(v) for grid in grids.values() for v in grid.errors.ravel() if math.isfinite(v)] or [1.0]
    # What matches by far needs no colours of its own.
    floor = max(min(finite), 0.5 * (data.levels.threshold or 0.0), 1e-3)
    scale = LogNorm(100 * floor, 100 * max(max(finite), 2 * floor))
    width = max(6.2, 0.9 + 2.1 * len(levels))
    side = min(2.6, (width - 0.9) / len(levels))
    figure = Figure(figsize=(width, 0.5 + side * len(steps)), layout="constrained")
    panels = figure.subplots(len(steps), len(levels), squeeze=False)
    shown = None
    for row, step in enumerate(steps):
        for column, level in enumerate(levels):
            axes = panels[row, column]
            if (step, level) not in grids:
                axes.set_visible(False)
                continue
            shown = _plane(axes, grids[step, level], data, scale)
            axes.set_title(f"rewind {step:,}, level {level}", fontsize=9)
    figure.supxlabel("distance in the subspace of the next mask, towards w(L+1)", fontsize=10)
    figure.supylabel("distance from that subspace, towards w(L)", fontsize=10)
    bar = figure.colorbar(shown, ax=panels, shrink=0.7, label="test error, % (log scale)")
    marks = [digit * 10.0**power for power in range(-1, 3) for digit in (1, 2, 5)]
    marks = [mark for mark in marks if scale.vmin <= mark <= scale.vmax]
    bar.set_ticks(marks, labels=[f"{mark:g}" for mark in marks])
    bar.ax.minorticks_off()
    return figure


def _plane(axes: "Axes", grid: _Grid, data: Data, scale):
    """One panel; what its colours mean."""
    import numpy as np

    from sparselt.analysis.plane import lcs_set

    errors = np.ma.masked_invalid(np.clip(100 * grid.errors, scale.vmin, None))
    half = [(line[1] - line[0]) / 2 for line in (grid.x, grid.y)]
    extent = (grid.x[0] - half[0], grid.x[-1] + half[0], grid.y[0] - half[1], grid.y[-1] + half[1])
    picture = {"origin": "lower", "extent": extent, "interpolation": "nearest", "cmap": "cividis", "norm": scale}
    shown = axes.imshow(errors, aspect="auto", **picture)
    axes.set_box_aspect(1)
    threshold, epsilon = data.levels.threshold, data.levels.epsilon
    if threshold is not None and errors.min() < 100 * threshold < errors.max():
        axes.contour(grid.x, grid.y, errors, [100 * threshold], colors="white", linewidths=1.0)
    if epsilon is not None and math.isfinite(grid.start):
        held = lcs_set(grid.errors, grid.x, grid.y, grid.networks["solution"], grid.start + epsilon)
        if held.any() and not held.all():
            # In another colour than the matching error's line, on which it often lies.
            axes.contour(grid.x, grid.y, held, [0.5], colors=COLOURS[0], linewidths=1.6, linestyles="dotted")
        if held.all():
            at = {"transform": axes.transAxes, "ha": "center", "va": "top"}
            axes.text(0.5, 0.97, "all in the LCS-set", color="white", fontsize=8.5, **at)
    axes.axhline(0, color="white", linewidth=0.6, linestyle=(0, (4, 3)), alpha=0.7)
    looks = {"solution": ("^", GREY), "projection": ("X", COLOURS[4]), "next_solution": ("^", COLOURS[4])}
    for name, (marker, colour) in looks.items():
        if name not in grid.networks:
            continue
        edge = {"markeredgecolor": INK, "markeredgewidth": 0.5}
        axes.plot(*grid.networks[name], marker, color=colour, markersize=7, **edge)
    axes.tick_params(labelsize=7)
    return shown


def _grid(rows: Sequence[Row]) -> _Grid:
    import numpy as np

    cells = {(row.position_2, row.position): row.value for row in rows if row.metric == "plane_error"}
    y, x = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    errors = np.array([[cells.get((down, across), math.nan) for across in x] for down in y])
    named = {row.metric.removesuffix("_error"): row for row in rows if row.metric != "plane_error"}
    networks = {name: (row.position, row.position_2) for name, row in named.items()}
    start = named["solution"].value if "solution" in named else math.nan
    return _Grid(np.array(x), np.array(y), errors, networks, start)
