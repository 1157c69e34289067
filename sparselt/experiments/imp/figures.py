"""Figures after Unmasking the Lottery Ticket Hypothesis (Paul et al. 2022): errors, paths, barriers, and variants."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparselt.experiments.imp.levels import CONTROLS, Level, levels, measured_by
from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Data, Drawing
from sparselt.report.rules import STABLE
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import DASHES, count, level_name, listing, points

VARIANTS = {
    "shuffled": draw.Look("shuffled weights", draw.GREY, "x", "none"),
    "one_shot": draw.Look("one-shot", draw.COLOURS[0], "o", "--"),
    "layerwise": draw.Look("layerwise", draw.COLOURS[1], "s"),
    "lr_rewinding": draw.Look("rate rewound", draw.COLOURS[3], "v"),
    "fine_tuning": draw.Look("fine-tuned", draw.COLOURS[4], "P"),
}
"""The variants that have a figure of their own beside IMP, by their names in the results."""

_CONTROL_MARKERS = {"random": "x", "reinit": "+"}
_Path = Mapping[float, float]
"""Test error in percent by place on the path."""


def lead_drawings(data: Data) -> dict[str, Drawing]:
    """Errors against density, errors along the path through the levels, and barriers; each where it was measured."""
    dense, paths, between = levels(data).dense, _paths(data), _barriers(data)
    names = {level: level_name(level, density) for level, density in levels(data).density.items()}
    lines = {at: f"level {math.floor(at)} to {math.ceil(at)}" for at in _places(paths) | _places(between)}
    on_path = {at: names[int(at)] if at in names else f"{lines[at]}, at {at % 1:.2g}" for at in _places(paths)}
    found: dict[str, tuple[Any, str, str, Chart, str]] = {
        "error_against_density": (
            error_against_density(data),
            "Test error against weights remaining",
            "After Fig. 5 of Unmasking. Mean and standard deviation over replicates, a line for each rewind step"
            + (", controls in grey" if any(levels(data).select(variant) for variant in CONTROLS) else "")
            + ". Grey line: the dense mean; grey band: up to ε above it. A mean in the band, or below, matches.",
            _chart_by_density(data, _rewound(data)),
            f"{measured_by(data)}, metric test_error",
        ),
        "error_along_path": (
            error_along_path(data),
            "Test error along the path through the levels",
            "After Fig. 2 of Unmasking, left. The straight lines from the solution of each level to that of the next, "
            "all parameters interpolated. Lines: means over replicates; thin, in the PNG and SVG: single replicates, "
            "and below, where lines lie close to each other, this part enlarged (Fig. 2, middle). Grey line: the dense "
            "mean; grey band: up to ε above it." + _unequal_numbers(data),
            Chart([(look._replace(marker=""), of) for look, of in _drawn(data, paths)], on_path, dense),
            "connectivity, metric path_error",
        ),
        "barriers": (
            barriers(data),
            "Error barriers between successive levels",
            "The barrier of Unmasking, Def. A.1, at each line of the path above: how far the error rises over the "
            f"straight line between the errors of its ends. {DASHES} Dashed line: the "
            f"{points(STABLE.value, 0)} points below which Linear Mode Connectivity (Frankle et al. 2020) speaks "
            "of stability.",
            Chart(_drawn(data, between), lines, limit=STABLE.value),
            "connectivity, metric barrier",
        ),
    }
    return {name: Drawing(*parts) for name, parts in found.items() if parts[0] is not None}


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against density of IMP and its variants, where any was run."""
    summary = levels(data)
    measured = [entry for variant in VARIANTS for entry in summary.select(variant)]
    step = measured[0].rewind_step if measured else 0
    looks = {"imp": draw.Look(f"IMP, rewind {step:,}", draw.COLOURS[2], "D"), **VARIANTS}
    series = [(look, summary.select(variant, step)) for variant, look in looks.items()]
    figure = _by_density(data, series)
    if figure is None or not any(entry.error.n for entry in measured):
        return {}
    caption = (
        "Mean and standard deviation over replicates. IMP: weights rewound, all layers ranked together. Shuffled "
        "weights: the ticket's rewound weights permuted within each layer. One-shot: pruned once to the same density, "
        "and rewound. Layerwise: each layer ranked on its own. Rate rewound: final weights kept, schedule rewound. "
        "Fine-tuned: final weights kept, trained on at the last learning rate for as many steps (both after Renda et "
        "al. 2020). Grey line and band: the dense mean, and up to ε above it."
    )
    numbers: dict[int, list[str]] = defaultdict(list)
    names = {"dense": "the dense network", "imp": "IMP"} | {variant: look.label for variant, look in VARIANTS.items()}
    for variant, name in names.items():
        place = {"experiment": "imp", "variant": variant, "rewind_step": (None, step), "condition": {}}
        if replicates := data.values(metric="test_error", **place):
            numbers[len(replicates)].append(name)
    if len(numbers) > 1:
        caption += f" Replicates: {', '.join(f'{number} of {listing(of)}' for number, of in numbers.items())}."
    chart = _chart_by_density(data, series)
    return {"variants": Drawing(figure, "Other ways to prune and to train on", caption, chart)}


def error_against_density(data: Data) -> "draw.Figure | None":
    """Unmasking Fig. 5: test error against weights remaining, mean and standard deviation, a line a rewind step."""
    return _by_density(data, _rewound(data))


def _rewound(data: Data) -> Sequence[tuple[draw.Look, Sequence[Level]]]:
    """The levels of each rewind step, then of each control."""
    summary = levels(data)
    series = [(look, summary.select("imp", step)) for step, look in _looks(data).items()]
    controls = {v: draw.Look(name, draw.GREY, _CONTROL_MARKERS[v], "none") for v, name in CONTROLS.items()}
    return series + [(look, summary.select(variant)) for variant, look in controls.items()]


def _chart_by_density(data: Data, series: Sequence[tuple[draw.Look, Sequence[Level]]]) -> Chart:
    names = {entry.density: level_name(entry.level, entry.density) for _, of in series for entry in of}
    lines = [(look, {entry.density: entry.errors for entry in of}) for look, of in series]
    return Chart(lines, names, levels(data).dense)


def _by_density(data: Data, series: Sequence[tuple[draw.Look, Sequence[Level]]]) -> "draw.Figure | None":
    entries = [entry for _, of in series for entry in of if entry.error.n]
    if not entries:
        return None
    dense = levels(data).dense
    densities = sorted({e.density for e in entries if e.variant == "imp"} or {e.density for e in entries})
    hair = (densities[0] / densities[-1]) ** 0.004
    figure, (axes,) = draw.canvas(3.8)
    # Level 0 has no bar of its own: the dense deviation is the height of the band.
    lines = [
        (look, [(e.density, e.error if e.level else dataclasses.replace(e.error, std=None)) for e in of])
        for look, of in series
    ]
    ends = draw.bars(axes, lines, move=lambda x, side: x * hair**side if x < 1 else x, zorder=3)
    draw.error_axis(axes, [entry.error for entry in entries])
    draw.matching_band(axes, dense)
    draw.density_axis(axes, densities, densities[-1] * 1.04, densities[0] / 1.04)
    draw.label_ends(axes, ends + draw.dense_label(dense))
    return figure


def error_along_path(data: Data) -> "draw.Figure | None":
    """Unmasking Fig. 2, left and middle: test error along the piecewise linear path through the levels' solutions."""
    paths: dict[int, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for step, of_step in _paths(data).items():
        for place, values in of_step.items():
            for replicate, error in values.items():
                paths[step][replicate][place] = 100 * error
    if not paths:
        return None
    summary = levels(data)
    means = {step: _mean_path(paths[step].values()) for step in sorted(paths)}
    looks = _looks(data, means)
    low, high = _enlarged(paths, means)
    zoomed = len(means) > 1 and max(max(mean.values()) for mean in means.values()) - low > 3 * (high - low)
    figure, panels = draw.canvas(5.4 if zoomed else 3.6, rows=2 if zoomed else 1, sharex=True)
    for axes in panels:
        for step, mean in means.items():
            for path in paths[step].values():
                axes.plot(*zip(*sorted(path.items()), strict=True), color=looks[step].colour, linewidth=0.5, alpha=0.45)
            axes.plot(*zip(*sorted(mean.items()), strict=True), color=looks[step].colour, linewidth=1.7)
        draw.matching_band(axes, summary.dense)
        axes.set_ylabel("test error, %")
    top, bottom = panels[0], panels[-1]
    errors = [error for of_step in paths.values() for path in of_step.values() for error in path.values()]
    top.set_ylim(bottom=draw.axis_start(min(errors), max(errors)))
    ends = [(looks[step].label, looks[step].colour, mean[max(mean)]) for step, mean in means.items()]
    if zoomed:
        bottom.set_ylim(low, max(high, 102 * (summary.threshold or 0)))
        bottom.set_ylabel("test error, %, enlarged")
        draw.label_ends(bottom, [end for end in ends if end[2] <= high] + draw.dense_label(summary.dense))
        top.tick_params(labelbottom=False)
    draw.label_ends(top, ends if zoomed else ends + draw.dense_label(summary.dense))
    draw.level_axis(bottom, summary.density, math.ceil(max(max(mean) for mean in means.values())))
    return figure


def barriers(data: Data) -> "draw.Figure | None":
    """The error barrier between successive levels (Unmasking, Def. A.1): replicates and mean, by rewind step."""
    values = _barriers(data)
    if not values:
        return None
    figure, (axes,) = draw.canvas(3.4)
    ends, highest = draw.dashes(axes, _drawn(data, values), 0.12)
    draw.barrier_axis(axes, highest)
    draw.level_axis(axes, levels(data).density, math.ceil(max(max(of) for of in values.values())))
    draw.label_ends(axes, ends)
    return figure


def _paths(data: Data) -> dict[int, dict[float, Values]]:
    """Finite test errors on the path, by rewind step and place: level and position on the line to the next."""
    found: dict[int, dict[float, Values]] = defaultdict(lambda: defaultdict(Values))
    place = {"experiment": "connectivity", "variant": "imp", "metric": "path_error", "condition": {}}
    for (step, level, position), errors in data.by("rewind_step", "level", "position", **place).items():
        if errors.finite:
            found[step or 0][level + (position or 0.0)].update(errors.finite)
    return found


def _barriers(data: Data) -> dict[int, dict[float, Values]]:
    """Barriers from each level to the next, by rewind step and the place between both."""
    found: dict[int, dict[float, Values]] = defaultdict(dict)
    place = {"experiment": "connectivity", "variant": "imp", "metric": "barrier", "condition": {}}
    for (step, level, to_level), values in data.by("rewind_step", "level", "to_level", **place).items():
        if to_level == level + 1 and values.finite:
            found[step][level + 0.5] = values
    return found


def _drawn(
    data: Data, measured: Mapping[int, Mapping[float, Values]]
) -> list[tuple[draw.Look, Mapping[float, Values]]]:
    """The look of each rewind step, with what was measured at it."""
    looks = _looks(data, measured)
    return [(looks[step], measured[step]) for step in sorted(measured)]


def _places(measured: Mapping[int, Mapping[float, Values]]) -> set[float]:
    return {place for of_step in measured.values() for place in of_step}


def _looks(data: Data, steps: Iterable[int] = ()) -> dict[int, draw.Look]:
    """The looks of the rewind steps, the same in every figure."""
    known = levels(data).rewind_steps
    steps = [*known, *sorted(set(steps) - set(known))]
    return {step: draw.look(place, f"rewind {step:,}") for place, step in enumerate(steps)}


def _enlarged(paths: Mapping[int, Mapping[int, _Path]], means: Mapping[int, _Path]) -> tuple[float, float]:
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
    paths = data.values(experiment="connectivity", variant="imp", metric="path_error", condition={})
    dense = levels(data).dense
    if dense.n in (0, len(paths)):
        return ""
    return (
        f" The dense mean is that of {count(dense.n, 'network')}, of which the paths start from {len(paths)}: they "
        "need not start on the grey line."
    )


def _mean_path(replicates: Iterable[_Path]) -> _Path:
    gathered: dict[float, list[float]] = defaultdict(list)
    for replicate in replicates:
        for place, value in replicate.items():
            gathered[place].append(value)
    return {place: Statistic.of(values).mean for place, values in gathered.items()}
