"""Figures after Unmasking the Lottery Ticket Hypothesis (Paul et al. 2022): errors, paths, barriers, and variants."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sparselt.experiments.imp.levels import CONTROLS, Level, levels
from sparselt.report import drawing as draw
from sparselt.report.data import Data, Drawing
from sparselt.report.statistic import NEAR_ZERO_BARRIER, Statistic
from sparselt.report.wording import listing, points

VARIANTS = {
    "shuffled": draw.Look("shuffled weights", draw.GREY, "x", "none"),
    "one_shot": draw.Look("one-shot", draw.COLOURS[0], "o", "--"),
    "layerwise": draw.Look("layerwise", draw.COLOURS[1], "s", "-"),
    "lr_rewinding": draw.Look("rate rewound", draw.COLOURS[3], "v", "-"),
    "fine_tuning": draw.Look("fine-tuned", draw.COLOURS[4], "P", "-"),
}
"""The variants that have a figure of their own beside IMP, by their names in the results."""

_CONTROL_MARKERS = {"random": "x", "reinit": "+"}
_Paths = Mapping[int, Mapping[int, Mapping[float, float]]]
"""Test error in percent by rewind step, replicate, and place on the path."""


def lead_drawings(data: Data) -> dict[str, Drawing]:
    """Errors against density, errors along the path through the levels, and barriers; each where it was measured."""
    found = {
        "error_against_density": (
            error_against_density(data),
            "Test error against weights remaining",
            "After Fig. 5 of Unmasking. Mean and standard deviation over replicates, a line for each rewind step, "
            "controls in grey. Grey line: the dense mean; grey band: up to ε above it. A mean in the band, or below, "
            "matches.",
        ),
        "error_along_path": (
            error_along_path(data),
            "Test error along the path through the levels",
            "After Fig. 2 of Unmasking, left (and, enlarged, middle). The straight lines from the solution of each "
            "level to that of the next, all parameters interpolated. Thin: replicates; thick: their mean; what is "
            "above the enlarged part is cut off. Grey line: the dense mean; grey band: up to ε above it."
            + _unequal_numbers(data),
        ),
        "barriers": (
            barriers(data),
            "Error barriers between successive levels",
            "The barrier of Unmasking, Def. A.1, at each line of the path above: how far the error rises over the "
            "straight line between the errors of its ends. Lines: means; short dashes: replicates. Dashed line: the "
            f"{points(NEAR_ZERO_BARRIER, 0)} points below which Linear Mode Connectivity (Frankle et al. 2020) speaks "
            "of stability.",
        ),
    }
    return {name: Drawing(figure, *text) for name, (figure, *text) in found.items() if figure is not None}


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against density of IMP and its variants, where any was run."""
    summary = levels(data)
    if not any(_finite(summary.select(variant)) for variant in VARIANTS):
        return {}
    step = next(entry.rewind_step for variant in VARIANTS for entry in summary.select(variant))
    looks = {"imp": draw.Look(f"IMP, rewind {step:,}", draw.COLOURS[2], "D"), **VARIANTS}
    caption = (
        "Mean and standard deviation over replicates. IMP: weights rewound, all layers ranked together. Shuffled "
        "weights: the ticket's rewound weights permuted within each layer. One-shot: pruned once to the same density, "
        "and rewound. Layerwise: each layer ranked on its own. Rate rewound: final weights kept, schedule rewound. "
        "Fine-tuned: final weights kept, trained on at the last learning rate for as many steps (both after Renda et "
        "al. 2020). Grey line and band: the dense mean, and up to ε above it."
    )
    figure = _by_density(data, [(of, summary.select(variant, step)) for variant, of in looks.items()])
    assert figure is not None
    return {"variants": Drawing(figure, "Other ways to prune and to train on", caption + _replicates(data, step))}


def error_against_density(data: Data) -> "draw.Figure | None":
    """Unmasking Fig. 5: test error against weights remaining, mean and standard deviation, a line a rewind step."""
    summary = levels(data)
    series = [
        (draw.look(place, f"rewind {step:,}"), summary.select("imp", step))
        for place, step in enumerate(summary.rewind_steps)
    ]
    series += [
        (draw.Look(name, draw.GREY, _CONTROL_MARKERS[variant], "none"), summary.select(variant))
        for variant, name in CONTROLS.items()
    ]
    return _by_density(data, series)


def _by_density(data: Data, series: Sequence[tuple[draw.Look, Sequence[Level]]]) -> "draw.Figure | None":
    series = [(of, _finite(entries)) for of, entries in series if _finite(entries)]
    if not series:
        return None
    dense, everything = levels(data).dense, [entry for _, entries in series for entry in entries]
    densities = sorted({e.density for e in everything if e.variant == "imp"} or {e.density for e in everything})
    figure, (axes,) = draw.canvas(3.8)
    ends = []
    for place, (of, entries) in enumerate(series):
        hair = (densities[0] / densities[-1]) ** draw.side_by_side(place, len(series), 0.004)
        # Level 0 has no bar of its own: the dense deviation is the height of the band.
        errors = [
            (entry.density * hair, entry.error)
            if entry.level
            else (entry.density, dataclasses.replace(entry.error, std=None))
            for entry in entries
        ]
        ends.append(draw.bars(axes, errors, of, zorder=3))
    draw.error_axis(axes, [entry.error for entry in everything])
    draw.matching_band(axes, dense)
    draw.density_axis(axes, densities, densities[-1] * 1.04, densities[0] / 1.04)
    draw.label_ends(axes, ends + draw.dense_label(dense))
    return figure


def error_along_path(data: Data) -> "draw.Figure | None":
    """Unmasking Fig. 2, left and middle: test error along the piecewise linear path through the levels' solutions."""
    paths: dict[int, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in data.select(experiment="connectivity", variant="imp", metric="path_error", condition={}):
        if math.isfinite(row.value):
            place = row.level + (row.position or 0.0)
            paths[row.rewind_step or 0][row.replicate][place] = 100 * row.value
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
            for replicate in paths[step].values():
                axes.plot(*_line(replicate), color=looks[step].colour, linewidth=0.5, alpha=0.45)
            axes.plot(*_line(mean), color=looks[step].colour, linewidth=1.7)
        draw.matching_band(axes, summary.dense)
        axes.set_ylabel("test error, %")
    top, bottom = panels[0], panels[-1]
    top.set_ylim(bottom=0)
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
    values: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in data.select(experiment="connectivity", variant="imp", metric="barrier", condition={}):
        if row.to_level == row.level + 1 and math.isfinite(row.value):
            values[row.rewind_step or 0][row.level].append(row.value)
    if not values:
        return None
    figure, (axes,) = draw.canvas(3.4)
    ends, highest = [], 0.0
    for place, (step, of) in enumerate(sorted(values.items())):
        shift = 0.5 + draw.side_by_side(place, len(values), 0.12)
        end, largest = draw.dashes(axes, {level + shift: of[level] for level in sorted(of)}, _looks(data, values)[step])
        ends, highest = ends + end, max(highest, largest)
    draw.barrier_axis(axes, highest)
    draw.level_axis(axes, levels(data).density, max(level for of in values.values() for level in of) + 1)
    draw.label_ends(axes, ends)
    return figure


def _looks(data: Data, steps: Iterable[int]) -> dict[int, draw.Look]:
    """The looks of the rewind steps, the same in every figure."""
    known = [*levels(data).rewind_steps]
    known += sorted(set(steps) - set(known))
    return {step: draw.look(place, f"rewind {step:,}") for place, step in enumerate(known)}


def _finite(entries: Sequence[Level]) -> list[Level]:
    return [entry for entry in entries if math.isfinite(entry.error.mean)]


def _enlarged(paths: _Paths, means: Mapping[int, Mapping[float, float]]) -> tuple[float, float]:
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
    rows = data.select(experiment="connectivity", variant="imp", metric="path_error", condition={})
    replicates, dense = {row.replicate for row in rows}, levels(data).dense
    if dense.n in (0, len(replicates)):
        return ""
    return (
        f" The dense mean is that of {dense.n} networks, of which the paths start from {len(replicates)}: they need "
        "not start on the grey line."
    )


def _replicates(data: Data, step: int | None) -> str:
    """Of how many each mean is, where the numbers differ: ` Replicates: 12 of the dense network, 5 of IMP.`"""
    names: dict[int, list[str]] = defaultdict(list)
    looks = {variant: of.label for variant, of in VARIANTS.items()}
    for variant, name in {"dense": "the dense network", "imp": "IMP", **looks}.items():
        place = {"experiment": "imp", "variant": variant, "rewind_step": (None, step), "condition": {}}
        if replicates := data.values(metric="test_error", **place):
            names[len(replicates)].append(name)
    texts = [f"{number} of {listing(of)}" for number, of in names.items()]
    return f" Replicates: {', '.join(texts)}." if len(texts) > 1 else ""


def _line(values: Mapping[float, float]) -> tuple[list[float], list[float]]:
    places = sorted(values)
    return places, [values[place] for place in places]


def _mean_path(replicates: Iterable[Mapping[float, float]]) -> dict[float, float]:
    gathered = defaultdict(list)
    for replicate in replicates:
        for place, value in replicate.items():
            gathered[place].append(value)
    return {place: Statistic.of(values).mean for place, values in gathered.items()}
