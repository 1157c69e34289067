"""The figures of a run, after those of Unmasking the Lottery Ticket Hypothesis (Paul et al. 2022).

Drawn with matplotlib's objects on its Agg and SVG canvases: no global figure, no window, the user's
matplotlibrc left out. Equal numbers give equal bytes.
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.report.drawing import (
    COLOURS,
    GREY,
    STYLE,
    barrier_axis,
    dense_label,
    error_axis,
    label_ends,
    level_axis,
    matching_band,
    ticks,
)
from sparselt.report.results import Row, write_bytes
from sparselt.report.section import Data, Drawing
from sparselt.report.sections import SECTIONS
from sparselt.report.summary import NEAR_ZERO_BARRIER, LevelSummary, Statistic, Summary, is_core
from sparselt.report.tables import CONTROLS
from sparselt.report.wording import percent, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORE = "core"
"""The key of the figures that a page shows first, of IMP, its controls and the lines between levels."""

_MARKERS = ("o", "s", "D", "v", "P", "*")
_CONTROL_MARKERS = {"random": "x", "reinit": "+"}
_CAPTIONS = {
    "error_against_density": (
        "Test error against weights remaining",
        "After Fig. 5 of Unmasking. Mean and standard deviation over replicates, a line for each rewind step, controls "
        "in grey. Grey line: the dense mean; grey band: up to ε above it. A mean in the band, or below, matches.",
    ),
    "error_along_path": (
        "Test error along the path through the levels",
        "After Fig. 2 of Unmasking, left (and, enlarged, middle). The straight lines from the solution of each level "
        "to that of the next, all parameters interpolated. Thin: replicates; thick: their mean; what is above the "
        "enlarged part is cut off. Grey line: the dense mean; grey band: up to ε above it.",
    ),
    "barriers": (
        "Error barriers between successive levels",
        "The barrier of Unmasking, Def. A.1, at each line of the path above: how far the error rises over the straight "
        "line between the errors of its ends. Lines: means; short dashes: replicates. Dashed line: the "
        f"{points(NEAR_ZERO_BARRIER, 0)} points below which Linear Mode Connectivity (Frankle et al. 2020) speaks of "
        "stability.",
    ),
}


@dataclass(frozen=True)
class Drawn:
    """A drawing as it was saved: the text of its SVG file, heading and caption."""

    svg: str
    heading: str
    caption: str


def save_figures(folder: Path, data: Data) -> dict[str, dict[str, Drawn]]:
    """Draw every figure the rows allow into `<folder>/<name>.png` and `.svg`; what was drawn, by experiment and name.

    Each file is written under a temporary name first.
    """
    import matplotlib

    drawn: dict[str, dict[str, Drawn]] = {}
    with _style(matplotlib):
        for experiment, drawings in _drawings(data):
            for name, drawing in drawings.items():
                image, text = io.BytesIO(), io.BytesIO()
                # Software, Date and Creator would make the bytes depend on the day and the version.
                drawing.figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
                metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
                drawing.figure.savefig(text, format="svg", metadata=metadata)
                write_bytes(folder / f"{name}.png", image.getvalue())
                write_bytes(folder / f"{name}.svg", text.getvalue())
                svg = text.getvalue().decode("utf-8")
                drawn.setdefault(experiment, {})[name] = Drawn(svg, drawing.heading, drawing.caption)
    return drawn


def _drawings(data: Data) -> Iterator[tuple[str, dict[str, Drawing]]]:
    """Those of IMP and its connectivity come first, under `CORE`; then each section's own, under its experiment."""
    figures = {
        "error_against_density": error_against_density(data.levels),
        "error_along_path": error_along_path(data.rows, data.levels),
        "barriers": barriers(data.rows, data.levels),
    }
    notes = {"error_along_path": _unequal_numbers(data)}
    found = {}
    for name, figure in figures.items():
        if figure is not None:
            heading, caption = _CAPTIONS[name]
            found[name] = Drawing(figure, heading, caption + notes.get(name, ""))
    yield CORE, found
    for experiment, section in SECTIONS.items():
        if data.select(experiment=experiment):
            yield experiment, section.drawings(data)


def error_against_density(levels: Summary) -> "Figure | None":
    """Unmasking Fig. 5: test error against weights remaining, mean and standard deviation, a line a rewind step."""
    series = [
        (f"rewind {step:,}", _colour(levels, step), _MARKERS[place % len(_MARKERS)], "-", levels.select("imp", step))
        for place, step in enumerate(levels.rewind_steps)
    ]
    series += [
        (name, GREY, _CONTROL_MARKERS[variant], "none", levels.select(variant)) for variant, name in CONTROLS.items()
    ]
    series = [(*drawing, _finite(entries)) for *drawing, entries in series if _finite(entries)]
    if not series:
        return None
    densities = sorted({entry.density for *_, entries in series for entry in entries}, reverse=True)
    figure, (axes,) = _canvas(3.8)
    labels = []
    for place, (label, colour, marker, line, entries) in enumerate(series):
        # Shifted by a hair, so that the bars of the rewind steps do not hide each other.
        shift = (densities[-1] / densities[0]) ** (0.004 * (place - (len(series) - 1) / 2))
        x = [entry.density * (shift if entry.level else 1) for entry in entries]
        y = [100 * entry.error.mean for entry in entries]
        # Level 0 has no bar of its own: the dense deviation is the height of the band.
        bars = [100 * (entry.error.std or 0) * (entry.level > 0) for entry in entries]
        axes.errorbar(x, y, bars, color=colour, marker=marker, linestyle=line, elinewidth=0.8, zorder=3)
        labels.append((label, colour, y[-1]))
    drawn = [entry.error for *_, entries in series for entry in entries]
    error_axis(axes, [100 * error.mean for error in drawn], [100 * (error.mean + (error.std or 0)) for error in drawn])
    matching_band(axes, levels)
    axes.set_xscale("log")
    axes.set_xlim(densities[0] * 1.04, densities[-1] / 1.04)
    ticks(axes, {density: percent(density).rstrip("%") for density in densities})
    axes.set_xlabel("weights remaining, % (log scale)")
    label_ends(axes, labels + dense_label(levels))
    return figure


def error_along_path(rows: Iterable[Row], levels: Summary) -> "Figure | None":
    """Unmasking Fig. 2, left and middle: test error along the piecewise linear path through the levels' solutions."""
    paths: dict[int, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.metric == "path_error" and is_core(row) and row.variant == "imp" and math.isfinite(row.value):
            paths[row.rewind_step][row.replicate][row.level + row.position] = 100 * row.value
    if not paths:
        return None
    means = {step: _mean_path(replicates.values()) for step, replicates in sorted(paths.items())}
    low, high = _enlarged(paths, means)
    zoomed = len(means) > 1 and max(max(mean.values()) for mean in means.values()) - low > 3 * (high - low)
    figure, panels = _canvas(5.4 if zoomed else 3.6, rows=2 if zoomed else 1)
    for axes in panels:
        for step, mean in means.items():
            colour = _colour(levels, step)
            for replicate in paths[step].values():
                axes.plot(*_line(replicate), color=colour, linewidth=0.5, alpha=0.45)
            axes.plot(*_line(mean), color=colour, linewidth=1.7)
        matching_band(axes, levels)
        axes.set_ylabel("test error, %")
    top, bottom = panels[0], panels[-1]
    top.set_ylim(bottom=0)
    labels = [(f"rewind {step:,}", _colour(levels, step), mean[max(mean)]) for step, mean in means.items()]
    if zoomed:
        bottom.set_ylim(low, max(high, 102 * (levels.threshold or 0)))
        bottom.set_ylabel("test error, %, enlarged")
        label_ends(bottom, [label for label in labels if label[2] <= high] + dense_label(levels))
        top.tick_params(labelbottom=False)
    label_ends(top, labels if zoomed else labels + dense_label(levels))
    last = math.ceil(max(max(mean) for mean in means.values()))
    level_axis(bottom, levels, last)
    return figure


def barriers(rows: Iterable[Row], levels: Summary) -> "Figure | None":
    """The error barrier between successive levels (Unmasking, Def. A.1): replicates and mean, by rewind step."""
    values = defaultdict(list)
    for row in rows:
        if row.metric == "barrier" and is_core(row) and row.variant == "imp" and row.to_level == row.level + 1:
            values[row.rewind_step, row.level].append(row.value)
    means = {key: 100 * Statistic.of(group).mean for key, group in sorted(values.items())}
    means = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    if not means:
        return None
    figure, (axes,) = _canvas(3.4)
    labels, steps = [], sorted({step for step, _ in means})
    for place, step in enumerate(steps):
        colour, shift = _colour(levels, step), 0.5 + 0.12 * (place - (len(steps) - 1) / 2)
        line = {level + shift: mean for (other, level), mean in means.items() if other == step}
        for (other, level), group in values.items():
            if other == step:
                axes.plot(
                    [level + shift] * len(group), [100 * v for v in group], "_", color=colour, alpha=0.7, markersize=5
                )
        axes.plot(*_line(line), color=colour, marker=_MARKERS[place % len(_MARKERS)])
        labels.append((f"rewind {step:,}", colour, line[max(line)]))
    largest = max(100 * value for group in values.values() for value in group if math.isfinite(value))
    barrier_axis(axes, largest)
    last = max(level for _, level in means) + 1
    level_axis(axes, levels, last)
    label_ends(axes, labels)
    return figure


@contextmanager
def _style(matplotlib):
    """matplotlib's defaults and ours, whatever the user's matplotlibrc says; the user's settings come back after."""
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    with matplotlib.rc_context(defaults | STYLE):
        yield


def _canvas(height: float, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    return figure, list(panels)


def _colour(levels: Summary, step: int) -> str:
    steps = levels.rewind_steps
    return COLOURS[(steps.index(step) if step in steps else 0) % len(COLOURS)]


def _finite(entries: Sequence[LevelSummary]) -> list[LevelSummary]:
    return [entry for entry in entries if math.isfinite(entry.error.mean)]


def _enlarged(
    paths: Mapping[int, Mapping[int, Mapping[float, float]]], means: Mapping[int, Mapping[float, float]]
) -> tuple[float, float]:
    """What the enlarged part of the path shows: the mean of the last rewind step, with room, and of all rewind steps
    whose means fit there the replicates; these up to as much again above."""
    latest = means[max(means)].values()
    low, high = min(latest), max(latest)
    room = 0.35 * max(high - low, 0.1 * high)
    near = [step for step, mean in means.items() if max(mean.values()) <= high + room]
    values = [value for step in near for replicate in paths[step].values() for value in replicate.values()]
    top = min(max(high + room, 1.03 * max(values)), 2 * (high + room) - low)
    return max(0.0, min(low - room, 0.97 * min(values))), top


def _unequal_numbers(data: Data) -> str:
    """A sentence for a path that starts at the mean of fewer dense networks than the grey line is of."""
    rows = data.select(variant="imp", metric="path_error")
    replicates = {row.replicate for row in rows if is_core(row)}
    if data.levels.dense is None or data.levels.dense.n == len(replicates):
        return ""
    return (
        f" The dense mean is that of {data.levels.dense.n} networks, of which the paths start from {len(replicates)}: "
        "they need not start on the grey line."
    )


def _line(values: Mapping[float, float]) -> tuple[list[float], list[float]]:
    places = sorted(values)
    return places, [values[place] for place in places]


def _mean_path(replicates: Iterable[Mapping[float, float]]) -> dict[float, float]:
    gathered = defaultdict(list)
    for replicate in replicates:
        for place, value in replicate.items():
            gathered[place].append(value)
    return {place: Statistic.of(values).mean for place, values in gathered.items()}
