"""The landscape between a level and the next (Paul et al. 2022, Def. 2.1, Figs. 3, 7 and 8).

A network is in the LCS-set of w(L) where the largest error on the straight line to it is at most E(w(L)) + ε; here the
means over replicates of that largest error and of E(w(L)) are compared, ε being the standard deviation of the dense
error. The next solution is in the set exactly where both levels match (level 0 apart, as for the barrier), over pairs
of levels at all rewind steps. The projection leaves the set as sparsity grows: at the judged step the rise of the error
on the way to it is below ε at the first level and above ε at the judged one. That sentence is not judged where no level
is sparse enough for it. See `sparselt.report.rules`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sparselt.experiments.imp.lead import LEAD, dense_sentence
from sparselt.experiments.imp.levels import levels
from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Claim, Data, Drawing, Section, listed, once
from sparselt.report.planes import draw_grid
from sparselt.report.results import Row
from sparselt.report.rules import (
    DENSITY,
    Judged,
    above,
    all_of,
    allowed,
    below,
    coincidence,
    epsilon,
    judged_level,
    judged_step,
)
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import count, level_name, of_pairs, percent, ranges

PAPER = "Paul et al. 2022 (Unmasking)"
SPARSE = 2 * DENSITY
"""The claim that the projection leaves the LCS-set is judged only in runs that reach this density. The limit is ours:
twice the density at which claims are judged. In the confirming runs of the digits the projection leaves at 41 or 33% of
the weights (docs/results/digits_seed_101.md and the two pages after it)."""

LINES = {"projection": "its projection", "next": "the next solution"}


def drawings(data: Data) -> dict[str, Drawing]:
    """A figure of planes for each replicate that has any, and the rise of the error along the lines."""
    found = {}
    planes = sorted({row.replicate for row in data.select(experiment="landscape", metric="plane_error")})
    for replicate in planes:
        found["planes" if replicate == planes[0] else f"planes_replicate_{replicate}"] = Drawing(
            _planes(data, replicate),
            f"The plane through a solution, its projection and the next solution, replicate {replicate}",
            "After Fig. 3 of Unmasking. Test error, logarithmic colours; white line: the matching error, dense mean + "
            "ε; dotted orange: the LCS-set of w(L), which straight lines from w(L) reach without an error above its "
            "own + ε; a panel that lies in it as a whole says so. Grey triangle: w(L); orange cross: its projection by "
            "the next mask; orange triangle: w(L+1). Dashed: the line through the last two, in the subspace of the "
            "next mask. Units are distances between parameters; the direction to w(L) is drawn twice as long, or less "
            "where it would not fit. Outside the triangle of the three, only prunable parameters are extrapolated; all "
            "others, batch-norm statistics included, are those of its nearest point. A sharp-edged wedge of high error "
            "may appear above and right of w(L+1) where its mask silenced channels. The statistics there are w(L+1)'s "
            "alone, and these channels have almost no variance. Batch norm then magnifies what comes through their "
            "pruned weights, which return above the dashed line.",
            rows="landscape, metric plane_error, condition plane=grid",
        )
    if any(values.finite for line in LINES for values in _rises(data, line).values()):
        figure, chart = _lines(data)
        found["rise_along_lines"] = Drawing(
            figure,
            "Rise of the error from a solution",
            "How far the error rises above that of w(L) on the straight line to its projection by the next mask, and "
            "to the next solution w(L+1). Lines: means; short dashes: replicates. In the grey band, up to ε, the end "
            "of the line is in the LCS-set of w(L): in the interactive figure, below the dashed line. PNG and SVG are "
            "linear to 1 point, logarithmic above.",
            chart,
            rows="landscape, metrics max_error and path_error, condition line=",
        )
    return found


@listed
def findings(data: Data) -> Iterator[str]:
    """What the dense network errs on, where the page does not open with it; at which levels the projection and the next
    solution lie in the LCS-set."""
    if not LEAD.concerns(data):
        yield dense_sentence(levels(data).dense)
    limit = levels(data).epsilon
    if limit is None:
        yield "LCS-sets cannot be judged: ε, the standard deviation of the dense error, takes two finite dense runs."
        return
    for step in sorted({step for step, _ in _rises(data, "next")}):
        on_average, one_by_one = [], []
        for line, name in LINES.items():
            rises = {level: values for (at, level), values in _rises(data, line).items() if at == step}
            inside = [level for level in sorted(rises) if _inside(data, line, step, level)]
            held = [bool(allowed(Statistic.of([rise]), limit)) for values in rises.values() for rise in values.values()]
            on_average.append(f"{name} at {len(inside)} of {count(len(rises), 'level')} ({ranges(inside) or 'none'})")
            one_by_one.append(f"{name} in {sum(held)} of {len(held)}")
        yield (
            f"Rewound to step {step:,}, the LCS-set of a solution holds, on average, {' and '.join(on_average)}; "
            f"counted one by one, {' and '.join(one_by_one)}."
        )


@listed
def claims(data: Data) -> Iterator[Claim]:
    """The next solution is in the set where both match; the projection leaves it with sparsity."""
    yield from _next_solutions(data)
    yield from _projections(data)


SECTION = Section("The error landscape between a level and the next", drawings, findings, claims)


def _next_solutions(data: Data) -> Iterator[Claim]:
    summary = levels(data)
    tables: dict[int, list[int]] = {}  # by rewind step: both, only matching, only inside, neither
    for step, level in _rises(data, "next"):
        ends = [entry.matching for entry in summary.select("imp", step) if entry.level in (level, level + 1)]
        inside = _inside(data, "next", step, level)
        if level > 0 and len(ends) == 2 and None not in (*ends, inside):
            tables.setdefault(step, [0] * 4)[2 * (not all(ends)) + (not inside)] += 1
    if not tables:
        return
    both, outside, inside, neither = (sum(cells) for cells in zip(*tables.values(), strict=True))
    replicates = len(set().union(*_rises(data, "next").values()))
    yield coincidence([*tables.values()], replicates).claim(
        PAPER,
        "the next solution lies in the LCS-set of w(L) if and only if IMP succeeds (here: level 0 apart; Fig. 3)",
        f"{of_pairs(both, both + outside, 'inside', neither, inside + neither, 'outside')}; "
        f"{count(replicates, 'replicate')}",
    )


def _projections(data: Data) -> Iterator[Claim]:
    rises, summary = _rises(data, "projection"), levels(data)
    step = judged_step(data, (step for step, _ in rises))
    measured = sorted(level for at, level in rises if at == step)
    last = judged_level({level: summary.density[level] for level in measured if level in summary.density})
    if not measured or measured[0] >= last:
        return
    limit, (first, late) = epsilon(summary.dense), (rises[step, level] for level in (measured[0], last))
    inside = [level for level in measured if _inside(data, "projection", step, level)]
    judged = all_of(below(first, limit), above(late, limit))
    if (left := summary.density[last]) > SPARSE:
        why = f"the levels end at {percent(left)} of the weights, and growing sparsity takes {percent(SPARSE)} or less"
        judged = Judged(why, judged.n)
    yield judged.claim(
        PAPER,
        "at first the projection of w(L) by the next mask stays in its LCS-set, and leaves it as sparsity grows "
        "(Fig. 3)",
        f"rewound to step {step:,}, the error rises by {first:.2p} points at level {measured[0]} and by {late:.2p} at "
        f"level {last} ({percent(left)} of the weights); on average inside from level "
        f"{ranges(inside) or 'none'} of {ranges(measured)}",
    )


@once
def _rises(data: Data, line: str) -> Mapping[tuple[int, int], Values]:
    """How far the error rises above w(L)'s on a line, by rewind step and level, over replicates; NaN if it diverged."""
    place = {"experiment": "landscape", "condition": {"line": line}}
    largest = data.by("rewind_step", "level", metric="max_error", **place)
    start = data.by("rewind_step", "level", metric="path_error", position=0.0, **place)
    nothing = {key: Values.fromkeys(values, math.nan) for key, values in largest.items()}
    return {key: values - Values(nothing[key] | start.get(key, {})) for key, values in sorted(largest.items())}


def _inside(data: Data, line: str, step: int, level: int) -> bool | None:
    """Whether the line's end is in the LCS-set on average; None where that is not known."""
    limit = levels(data).epsilon
    return None if limit is None else allowed(_rises(data, line).get((step, level), Values()).statistic, limit)


def _lines(data: Data) -> "tuple[draw.Figure, Chart]":
    summary = levels(data)
    steps = summary.rewind_steps or sorted({step for step, _ in _rises(data, "next")})
    looks = {step: draw.look(place, f"rewind {step:,}")._replace(marker="o") for place, step in enumerate(steps)}
    figure, panels = draw.canvas(5.0, 2, sharex=True, sharey=True)
    ends: list[list[draw.End]] = []
    together: list[tuple[draw.Look, Mapping[int, Values]]] = []
    highest = 0.0
    for axes, (line, name) in zip(panels, LINES.items(), strict=True):
        rises = _rises(data, line).items()
        curves = [(look, {level: of for (at, level), of in rises if at == step}) for step, look in looks.items()]
        end, largest = draw.dashes(axes, curves, 0.12, faint=0.6)
        ends, highest = [*ends, end], max(highest, largest)
        style = {"projection": "-", "next": "--"}[line]
        together += [(look._replace(label=f"{look.label}, to {name}", line=style), curve) for look, curve in curves]
        if summary.epsilon is not None:
            axes.axhspan(0, 100 * summary.epsilon, color=draw.GREY, alpha=0.25, linewidth=0, zorder=0)
        axes.set_title(f"to {name}")
        axes.set_ylabel("rise, points\n(linear to 1,\nthen log)")
    draw.symmetric_log(panels[0], max(1.25 * highest, 1.0))
    last = max(level for line in LINES for _, level in _rises(data, line))
    draw.level_axis(panels[1], summary.density, last, margin=0.3)
    for axes, labels in zip(panels, ends, strict=True):
        draw.label_ends(axes, labels)
    named = {level: level_name(level, summary.density.get(level)) for level in range(last + 1)}
    return figure, Chart(together, named, limit=summary.epsilon)


def _planes(data: Data, replicate: int) -> "draw.Figure":
    """A panel for each rewind step (down) and level (across, four in a row); of a single level the steps across."""
    from matplotlib.colors import LogNorm

    place = {"experiment": "landscape", "replicate": replicate, "condition": {"plane": "grid"}}
    measured = data.select(metric="plane_error", **place)
    steps, across = sorted({row.rewind_step or 0 for row in measured}), sorted({row.level for row in measured})
    values = [row.value for row in measured if math.isfinite(row.value)] or [1.0]
    # What matches by far needs no colours of its own.
    floor = max(min(values), 0.5 * (levels(data).threshold or 0.0), 1e-3)
    top = max(max(values), 2 * floor)
    columns, places = len(steps), across
    if len(across) > 1:
        columns = min(len(across), 4)
        places = [*across, *[-1] * (-len(across) % columns)]  # no network has level -1: its panel stays empty
    width = max(6.2, 0.9 + 2.1 * columns)
    down = len(steps) * len(places) // columns
    side = (width - 0.9) / columns
    figure, panels = draw.canvas(0.5 + min(4.8, side) * down, down, columns, width=width)
    for axes, (step, level) in zip(panels, itertools.product(steps, places), strict=True):
        rows = data.select(rewind_step=step, level=level, **place)
        if not any(row.metric == "plane_error" for row in rows):
            axes.set_visible(False)
            continue
        shown = _plane(axes, rows, levels(data).dense, LogNorm(100 * floor, 100 * top))
        axes.set_title(f"rewind {step:,}, level {level}", fontsize=9)
    figure.supxlabel("distance in the subspace of the next mask, towards w(L+1)", fontsize=10)
    figure.supylabel("distance from that subspace," + (" " if down > 1 else "\n") + "towards w(L)", fontsize=10)
    bar = figure.colorbar(shown, ax=panels, shrink=0.7, label="test error, % (log scale)")
    marks = draw.round_numbers(max(100 * floor, 0.1), 100 * top)
    bar.set_ticks(marks, labels=[f"{mark:g}" for mark in marks])
    bar.ax.minorticks_off()
    return figure


def _plane(axes: "draw.Axes", rows: list[Row], dense: Statistic, scale: Any) -> Any:
    """One panel: the errors on a grid, and where its networks stand. What its colours mean."""
    import numpy as np

    from sparselt.analysis.plane import lcs_set

    cells = {(row.position, row.position_2): row.value for row in rows if row.metric == "plane_error"}
    named = {row.metric: row.value for row in rows if row.metric != "plane_error"}
    places = {row.metric: (row.position or 0.0, row.position_2 or 0.0) for row in rows}
    x, y = (np.array(sorted({place[axis] or 0.0 for place in cells})) for axis in (0, 1))
    errors = np.array([[cells.get((across, down), math.nan) for across in x] for down in y])
    how: dict[str, Any]
    shown, picture = draw_grid(axes, x, y, errors, scale, aspect="auto")
    axes.set_box_aspect(1)
    if dense.limit is not None and picture.min() < 100 * dense.limit < picture.max():
        axes.contour(x, y, picture, [100 * dense.limit], colors="white", linewidths=1.0)
    start = named.get("solution_error", math.nan)
    if dense.epsilon is not None and math.isfinite(start):
        held = lcs_set(errors, x, y, places["solution_error"], start + dense.epsilon)
        if held.any() and not held.all():
            # In another colour than the matching error's line, on which it often lies.
            axes.contour(x, y, held, [0.5], colors=draw.COLOURS[0], linewidths=1.6, linestyles="dotted")
        if held.all():
            how = {"transform": axes.transAxes, "ha": "center", "va": "top", "color": "white", "fontsize": 8.5}
            axes.text(0.5, 0.97, "all in the LCS-set", **how)
    axes.axhline(0, color="white", linewidth=0.6, linestyle=draw.DASHED, alpha=0.7)
    orange = draw.COLOURS[4]
    looks = {"solution": ("^", draw.GREY), "projection": ("X", orange), "next_solution": ("^", orange)}
    for name, (marker, colour) in looks.items():
        if f"{name}_error" in named:
            how = {"color": colour, "markersize": 7, "markeredgecolor": draw.INK, "markeredgewidth": 0.5}
            axes.plot(*places[f"{name}_error"], marker, **how)
    axes.tick_params(labelsize=7)
    return shown
