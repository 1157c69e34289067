"""Figures of flatness and of perturbations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparselt.experiments.flatness.values import (
    FRACTIONS,
    barriers_of,
    by_network,
    correlations,
    number_text,
    triples_of,
)
from sparselt.report import drawing as draw
from sparselt.report.data import Data, Drawing
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import percent

_Curve = tuple[draw.Look, Mapping[float, Values]]
"""The barriers of the replicates by place on the axis, and how they are drawn."""


def drawings(data: Data) -> dict[str, Drawing]:
    """Curvature and the largest prunable fraction by level and against each other; barriers after perturbation."""
    found: dict[str, Drawing] = {}
    if triples_of(data, "largest_prunable_fraction"):
        found["flatness_by_level"] = _by_level(data)
        found["flatness_against_fraction"] = _against(data)
    if barriers_of(data, "perturbed") or barriers_of(data, "perturbed_dense"):
        found["perturbation"] = _perturbation(data)
    return found


def _by_level(data: Data) -> Drawing:
    names = {
        "eigenvalue_1": "largest eigenvalue",
        "trace": "trace",
        "largest_prunable_fraction": "largest fraction\none level can prune, %",
    }
    rows = data.select(experiment="flatness", variant="imp", metric=tuple(names))
    steps = sorted({row.rewind_step for row in rows})
    densities = {row.level: row.density for row in sorted(rows, key=lambda row: (row.level, -row.replicate))}
    figure, panels = draw.canvas(5.6, 3, sharex=True)
    for axes, (metric, name) in zip(panels, names.items(), strict=True):
        scale = 100 if "fraction" in metric else 1
        for place, step in enumerate(steps):
            groups = data.by("level", experiment="flatness", variant="imp", metric=metric, rewind_step=step)
            shift = draw.side_by_side(place, len(steps), 0.06)
            points = {level + shift: Statistic.of(values.values()) for level, values in sorted(groups.items())}
            if points:
                of = draw.look(place, f"rewind {step:,}")
                draw.bars(axes, points.items(), of, scale, label=of.label)
        finite = [row.value for row in rows if row.metric == metric and math.isfinite(row.value)]
        if "fraction" in metric:
            axes.set_ylim(-3, 100)
        elif finite and 0 < 10 * min(finite) < max(finite):
            axes.set_yscale("log")
            _round_ticks(axes.yaxis, finite)
        axes.set_ylabel(name)
    panels[0].legend(frameon=False, fontsize=9)
    panels[-1].set_xticks([*densities], [f"{k}\n{percent(density).rstrip('%')}" for k, density in densities.items()])
    panels[-1].set_xlabel("level, with weights remaining in %")
    caption = (
        "Above: the largest eigenvalue and the trace of the Hessian of the training loss in the live weights, batch "
        "norm in eval mode, on a subsample of the training images. Below: the largest fraction that the next level "
        "could prune with a training loss below the dense one + ε all along the path, in steps of 5%; 0 where there "
        "is none. Mean and standard deviation over replicates."
    )
    return Drawing(figure, "Flatness at the end of training, by level", caption)


def _round_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten: matplotlib's own would run into each other."""
    low, high = min(values), max(values)
    few = math.ceil(math.log10(high)) - math.floor(math.log10(low)) <= 2
    draw.number_ticks(axis, draw.round_numbers(0.7 * low, 1.4 * high, (1, 2, 5) if few else (1,)))


def _against(data: Data) -> Drawing:
    figure, panels = draw.canvas(3.2, 1, 2, sharey=True)
    curvature = by_network(data, "eigenvalue_1")
    steps = sorted({key[2] for key in curvature if key[2] is not None})
    looks = {None: draw.Look("dense", draw.GREY, "x")} | {
        step: draw.look(k, f"rewind {step:,}") for k, step in enumerate(steps)
    }
    for axes, (metric, name) in zip(panels, FRACTIONS.items(), strict=True):
        fractions = by_network(data, metric)
        for step, (label, colour, marker, _) in looks.items():
            keys = [key for key in fractions if key[2] == step and math.isfinite(curvature.get(key, math.nan))]
            x, y = [curvature[key] for key in keys], [100 * fractions[key] for key in keys]
            axes.plot(x, y, marker, color=colour, markersize=4, alpha=0.8, label=label)
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
    figure, (axes,) = draw.canvas(3.2)
    places, name, curves = _perturbed_curves(data)
    ends, highest = [], 0.0
    for number, (of, curve) in enumerate(curves):
        shift = draw.side_by_side(number, len(curves), 0.06)
        groups = {places.index(place) + shift: curve[place].values() for place in sorted(curve)}
        face = of.colour if of.line == "-" else "none"
        end, largest = draw.dashes(axes, groups, of, size=4.5, markerfacecolor=face)
        ends, highest = ends + (end if of.label else []), max(highest, largest)
    draw.barrier_axis(axes, highest)
    draw.place_axis(axes, [f"{place:,g}" for place in places], name, margin=0.4)
    draw.label_ends(axes, ends)
    caption = (
        "After appendix D of Unmasking. The rewound network is moved in a random direction and trained; the barrier "
        "between its solution and the unperturbed one. Markers: means; short dashes: replicates; hollow: the dense "
        "network under the projection of level 1. Dashed line: the 2 points of Linear Mode Connectivity."
    )
    return Drawing(figure, "Perturbed at the rewind step", caption)


def _perturbed_curves(data: Data) -> tuple[list[float], str, list[_Curve]]:
    """Places on the axis, its name, and the curves: over the scales, with a curve for each rewind step; over the rewind
    steps where there is but one scale."""
    pruned, dense = (barriers_of(data, variant) for variant in ("perturbed", "perturbed_dense"))
    steps, scales = (sorted({place[axis] for place in (*pruned, *dense)}) for axis in (0, 1))
    norm = "next pruning's projection"
    if len(scales) > 1:
        curves = [
            (of, {scale: values for (at, scale), values in found.items() if at == step})
            for number, step in enumerate(steps)
            for found, of in ((pruned, draw.look(number, f"rewind {step:,}")), (dense, draw.look(number, "", "none")))
        ]
        return scales, f"norm of the perturbation, in norms of the {norm}", curves
    rows = data.select(experiment="flatness", variant="perturbed", metric="barrier")
    name = f"pruned to {percent(rows[0].density)}" if rows else ""
    curves = [
        (
            draw.Look(name, draw.COLOURS[1], draw.MARKERS[0], "-"),
            {step: values for (step, _), values in pruned.items()},
        ),
        (draw.Look("dense", draw.GREY, draw.MARKERS[1], "--"), {step: values for (step, _), values in dense.items()}),
    ]
    return [*steps], f"rewind step (perturbed by {scales[0]:g} × the {norm})", curves
