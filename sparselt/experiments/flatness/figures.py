"""Figures of flatness and of perturbations."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparselt.experiments.flatness.values import (
    FRACTIONS,
    PERTURBED,
    barriers_of,
    by_network,
    correlations,
    number_text,
    pairs_of,
)
from sparselt.report.drawing import COLOURS, GREY, barrier_axis, label_ends, ticks
from sparselt.report.section import Data, Drawing
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import Values
from sparselt.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_MARKERS = ("o", "s", "D", "v")


def drawings(data: Data) -> dict[str, Drawing]:
    """Curvature and the largest prunable fraction by level and against each other; barriers after perturbation."""
    found: dict[str, Drawing] = {}
    if pairs_of(data, "largest_prunable_fraction"):
        found["flatness_by_level"] = _by_level(data)
        found["flatness_against_fraction"] = _against(data)
    if data.select(experiment="flatness", variant=PERTURBED, metric="barrier"):
        found["perturbation"] = _perturbation(data)
    return found


def _by_level(data: Data) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    metrics = ("eigenvalue_1", "trace", "largest_prunable_fraction")
    names = ("largest eigenvalue", "trace", "largest fraction\none level can prune, %")
    rows = data.select(experiment="flatness", variant="imp", metric=metrics)
    steps = sorted({row.rewind_step for row in rows})
    densities = {row.level: row.density for row in sorted(rows, key=lambda row: -row.replicate)}
    for axes, metric, name in zip(panels, metrics, names, strict=True):
        for place, step in enumerate(steps):
            groups = data.by("level", experiment="flatness", variant="imp", metric=metric, rewind_step=step)
            found = [(level, Statistic.of(values.values())) for (level,), values in sorted(groups.items())]
            scale = 100 if "fraction" in metric else 1
            axes.errorbar(
                [level + 0.06 * (place - (len(steps) - 1) / 2) for level, _ in found],
                [scale * statistic.mean for _, statistic in found],
                [scale * (statistic.std or 0) for _, statistic in found],
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                elinewidth=0.8,
                label=f"rewind {step:,}",
            )
        _log_if_wide(axes, [row.value for row in rows if row.metric == metric], "fraction" in metric)
        axes.set_ylabel(name)
    panels[0].legend(frameon=False, fontsize=9)
    levels = sorted(densities)
    panels[-1].set_xticks(levels, [f"{level}\n{percent(densities[level]).rstrip('%')}" for level in levels])
    panels[-1].set_xlabel("level, with weights remaining in %")
    caption = (
        "Above: the largest eigenvalue and the trace of the Hessian of the training loss in the live weights, batch "
        "norm in eval mode, on a subsample of the training images. Below: the largest fraction that the next level "
        "could prune with a training loss below the dense one + ε all along the path, in steps of 5%; 0 where there "
        "is none. Mean and standard deviation over replicates."
    )
    return Drawing(figure, "Flatness at the end of training, by level", caption)


def _log_if_wide(axes: "Axes", values: Sequence[float], is_fraction: bool) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if is_fraction:
        axes.set_ylim(-3, 100)
    elif finite and 0 < 10 * min(finite) < max(finite):
        axes.set_yscale("log")
        _round_ticks(axes.yaxis, finite)


def _round_ticks(axis: "Axis", values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten: matplotlib's own would run into each other."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    places = [digit * 10.0**power for power in range(low - 1, high + 1) for digit in digits]
    inside = [tick for tick in places if 0.7 * min(values) <= tick <= 1.4 * max(values)]
    axis.set_ticks(inside, [f"{tick:g}" for tick in inside])
    axis.set_ticks([], minor=True)


def _against(data: Data) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    curvature = by_network(data, "eigenvalue_1")
    steps = sorted({key[2] for key in curvature if key[2] is not None})
    for axes, (metric, name) in zip(panels, FRACTIONS.items(), strict=True):
        fractions = by_network(data, metric)
        for place, step in enumerate((None, *steps)):
            keys = [key for key in fractions if key[2] == step and math.isfinite(curvature.get(key, math.nan))]
            axes.plot(
                [curvature[key] for key in keys],
                [100 * fractions[key] for key in keys],
                _MARKERS[(place - 1) % len(_MARKERS)] if place else "x",
                color=COLOURS[(place - 1) % len(COLOURS)] if place else GREY,
                markersize=4,
                alpha=0.8,
                label="dense" if step is None else f"rewind {step:,}",
            )
        _, rho, number = correlations(data, metric)
        axes.set_title(f"{name}\nρ = {number_text(rho)}, n = {number}", fontsize=9.5)
        values = [value for value in curvature.values() if math.isfinite(value)]
        if values and min(values) > 0:
            axes.set_xscale("log")
            _round_ticks(axes.xaxis, values)
        axes.set_xlabel("largest eigenvalue")
        axes.set_ylim(-3, 100)
    panels[0].set_ylabel("largest fraction\none level can prune, %")
    panels[-1].legend(frameon=False, fontsize=8.5)
    caption = (
        "Each marker is a network: a level of a replicate. Left: pruned as far as the training loss stays below the "
        "dense network's + ε, as the adaptive heuristic has it; right: below the network's own loss + ε. ρ: Spearman's "
        "rank correlation over all n of them, of which those of a replicate are not independent."
    )
    return Drawing(figure, "What one level can prune against the largest eigenvalue", caption)


def _perturbation(data: Data) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    axes = figure.subplots()
    places, axis, curves = _perturbed_curves(data)
    labels, largest = [], 0.0
    for number, (name, colour, marker, line, curve) in enumerate(curves):
        shift = 0.06 * (number - (len(curves) - 1) / 2)
        means = {places.index(place) + shift: Statistic.of(values.values()).mean for place, values in curve.items()}
        means = {at: 100 * mean for at, mean in means.items() if math.isfinite(mean)}
        for place, values in curve.items():
            dashes = [100 * value for value in values.values() if math.isfinite(value)]
            axes.plot([places.index(place) + shift] * len(dashes), dashes, "_", color=colour, alpha=0.7)
            largest = max([largest, *dashes])
        look = {"marker": marker, "linestyle": line, "markerfacecolor": colour if line == "-" else "none"}
        axes.plot(list(means), list(means.values()), color=colour, **look)
        if name and means:
            labels.append((name, colour, means[max(means)]))
    barrier_axis(axes, largest)
    ticks(axes, {number: f"{place:,g}" for number, place in enumerate(places)})
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel(axis)
    label_ends(axes, labels)
    caption = (
        "After appendix D of Unmasking. The rewound network is moved in a random direction and trained; the barrier "
        "between its solution and the unperturbed one. Markers: means; short dashes: replicates; hollow: the dense "
        "network under the projection of level 1. Dashed line: the 2 points of Linear Mode Connectivity."
    )
    return Drawing(figure, "Perturbed at the rewind step", caption)


def _perturbed_curves(data: Data) -> tuple[Sequence[float], str, list[tuple[str, str, str, str, dict[float, Values]]]]:
    """Places on the axis and its name; curves with name, colour, marker, line, and barriers of the replicates by place.

    Over the scales, with a curve for each rewind step; over the rewind steps where there is but one scale.
    """
    norm = "next pruning's projection"
    pruned, dense = (barriers_of(data, variant) for variant in PERTURBED)
    steps, scales = (sorted({place[axis] for place in (*pruned, *dense)}) for axis in (0, 1))
    if len(scales) > 1:
        curves = [
            (
                "" if of is dense else f"rewind {step:,}",
                COLOURS[number % len(COLOURS)],
                _MARKERS[number % len(_MARKERS)],
                "none" if of is dense else "-",
                {scale: values for (at, scale), values in sorted(of.items()) if at == step},
            )
            for number, step in enumerate(steps)
            for of in (pruned, dense)
        ]
        return scales, f"norm of the perturbation, in norms of the {norm}", curves
    rows = data.select(experiment="flatness", variant="perturbed", metric="barrier")
    name = f"pruned to {percent(rows[0].density)}" if rows else ""
    curves = [
        (name, COLOURS[1], _MARKERS[0], "-", {step: values for (step, _), values in sorted(pruned.items())}),
        ("dense", GREY, _MARKERS[1], "--", {step: values for (step, _), values in sorted(dense.items())}),
    ]
    return steps, f"rewind step (perturbed by {scales[0]:g} × the {norm})", curves
