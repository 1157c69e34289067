"""What the figures share: colours, axes, the band of matching errors, names at the ends of lines."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparselt.report.summary import NEAR_ZERO_BARRIER, Summary
from sparselt.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1a1a1b"
"""The colour of text and axes."""

GREY = "#747475"
"""The colour of the dense network and of the controls."""

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#b5598d", "#e69f00", "#56b4e9")
"""The colours of the rewind steps, after Okabe and Ito's palette for readers with any colour vision."""

STYLE = {
    "svg.hashsalt": "sparselt",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
"""What every figure sets over matplotlib's defaults."""

_LOG_TICKS = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]


def error_axis(axes: "Axes", means: Sequence[float], tops: Sequence[float] = ()) -> None:
    """Test errors in percent, linear from zero; logarithmic, and said so, where the largest mean would press the others
    into a corner. The axis holds `tops` as well, the upper ends of error bars and of the dense band."""
    low, high, top = min(means), max(means), max((value for value in tops if math.isfinite(value)), default=0.0)
    axes.set_ylabel("test error, %")
    if not 0 < 5 * low < high:
        axes.set_ylim(0, max(1.08 * high, 1.03 * top, 0.1))
        return
    axes.set_ylabel("test error, % (log scale)")
    axes.set_yscale("log")
    low, high = 0.8 * low, max(1.25 * high, 1.05 * top)
    ticks = [tick for tick in _LOG_TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low, high)


def barrier_axis(axes: "Axes", largest: float) -> None:
    """Linear up to 10 points; beyond, linear to 1 and logarithmic above, so that near zero and tens both show."""
    limit = 100 * NEAR_ZERO_BARRIER
    axes.set_ylabel("error barrier, points")
    axes.axhline(limit, color=GREY, linewidth=0.7, linestyle=(0, (4, 3)))
    if largest <= 10:
        axes.set_ylim(-0.02 * max(largest, limit), 1.1 * max(largest, limit))
        return
    axes.set_ylabel("error barrier, points\n(linear to 1, then log)")
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(-0.08, min(1.25 * largest, 115))


def matching_band(axes: "Axes", levels: Summary) -> None:
    """The dense mean as a line; the band up to mean + epsilon, in which a mean matches. Limits that were set before are
    moved up to hold it."""
    if levels.dense is None or not math.isfinite(levels.dense.mean):
        return
    axes.axhline(100 * levels.dense.mean, color=GREY, linewidth=0.8, zorder=1)
    if levels.threshold is not None:
        axes.axhspan(100 * levels.dense.mean, 100 * levels.threshold, color=GREY, alpha=0.25, linewidth=0, zorder=0)
        axes.set_ylim(top=max(axes.get_ylim()[1], 102 * levels.threshold))


def dense_label(levels: Summary) -> list[tuple[str, str, float]]:
    if levels.dense is None or not math.isfinite(levels.dense.mean):
        return []
    if levels.threshold is None:
        return [("dense", GREY, 100 * levels.dense.mean)]
    return [("dense + ε", GREY, 50 * (levels.dense.mean + levels.threshold))]


def level_axis(axes: "Axes", levels: Summary, last: int) -> None:
    """Levels 0 to `last`, each tick with its density below."""
    density = {entry.level: entry.density for entry in levels.levels}
    places = {k: f"{k}\n{percent(density[k]).rstrip('%')}" if k in density else str(k) for k in range(last + 1)}
    axes.set_xlim(-0.1, last + 0.1)
    ticks(axes, places)
    axes.set_xlabel("level, with weights remaining in %")


def ticks(axes: "Axes", labels: Mapping[float, str]) -> None:
    """Ticks at these places; where there are many, every second, third, … is labelled."""
    stride = math.ceil(len(labels) / 16)
    texts = [label if place % stride == 0 else "" for place, label in enumerate(labels.values())]
    axes.set_xticks(list(labels), texts)
    axes.set_xticks([], minor=True)


def label_ends(axes: "Axes", labels: Sequence[tuple[str, str, float]]) -> None:
    """Name each line at its right end, in its colour, moved apart where the ends are close. Set the limits before."""
    low, high = (axes.transData.transform((1, y))[1] for y in axes.get_ylim())
    height = axes.get_window_extent().height / axes.figure.dpi
    labels = sorted(labels, key=lambda label: label[2])
    ends = [min(1.0, max(0.0, (axes.transData.transform((1, y))[1] - low) / (high - low))) for *_, y in labels]
    for (text, colour, _), end, place in zip(labels, ends, _apart(ends, 0.17 / height), strict=True):
        leader = {"color": colour, "linewidth": 0.6, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.005, 1.03], [end, place], **leader, scalex=False, scaley=False)
        axes.text(1.035, place, text, color=colour, transform=axes.transAxes, va="center", fontsize=9.5)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as possible (in squares) so that neighbours are at least `gap` apart.

    Without the gaps, place[k] − k·gap has to ascend: isotonic regression, by pooling neighbours that do not.
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, size = place - index * gap, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, size = (before * many + mean * size) / (many + size), many + size
        pools.append((mean, size))
    return [mean + index * gap for index, mean in enumerate(mean for mean, size in pools for _ in range(size))]
