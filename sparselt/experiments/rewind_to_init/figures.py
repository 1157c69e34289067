"""The figures of `rewind_to_init`, after those of Maene et al. 2021."""

import math
from typing import Any

from sparselt.experiments.rewind_to_init.values import Condition, Conditions, measured, weights
from sparselt.report import drawing as draw
from sparselt.report.data import Data, Drawing
from sparselt.report.statistic import Values
from sparselt.report.wording import listing

_TICKS = 15  # whose labels an axis has room for
_Line = tuple[draw.Look, list[tuple[float, Values]]]
"""Values by density, and how they are drawn."""


def drawings(data: Data) -> dict[str, Drawing]:
    """Barriers, errors, angles, histograms, and the repelling loss; each where it was measured."""
    run = measured(data)
    found = {
        "init_barriers": _barriers(run),
        "init_errors": _errors(run),
        "init_angles": _angles(run),
        "init_histograms": _histograms(run),
        "init_repulsion": _repulsion(run),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def _barriers(run: Conditions) -> Drawing | None:
    lines = [
        # A line to the next round stands halfway on the logarithmic axis.
        (look, [(math.sqrt(c.density(k) * c.density(k + 1)), c.at("barrier", k, k + 1)) for k in c.levels[:-1]])
        for look, c in _looks(run)
    ]
    return _drawing(
        {"": lines},
        run.plain + run.warm,
        "Barriers between successive rounds, rewound to initialization",
        "After Maene et al.: the error barrier on the straight line from each round's solution to the next, drawn "
        f"halfway between the two, by batch size at equal epochs and by warm-up. {_trained(run)}Mean and standard "
        "deviation over replicates. Dashed grey: the 2 points of Linear Mode Connectivity. Lines are evaluated at the "
        "setting's path_points; the paper takes 20 points.",
        height=3.6,
    )


def _errors(run: Conditions) -> Drawing | None:
    return _drawing(
        {"": [(look, _errors_of(condition, condition.levels)) for look, condition in _looks(run)]},
        run.plain + run.warm,
        "Test error of rewinding to initialization",
        f"With all weights, the dense network of each condition. {_trained(run)}Mean and standard deviation over "
        "replicates.",
    )


def _repulsion(run: Conditions) -> Drawing | None:
    panels: dict[str, list[_Line]] = {}
    fresh = []
    for condition, base in run.repelled:
        what, title = (
            "repelled" if condition.repulsion > 0 else "attracted",
            f"λ = {condition.repulsion:g}, {base.name}",
        )
        panels[title] = [
            (draw.Look("IMP", draw.COLOURS[1], "o"), _errors_of(base, condition.levels)),
            (draw.Look(f"IMP, {what}", draw.COLOURS[0], "s"), _errors_of(condition, condition.levels)),
            (draw.Look("reinit", draw.GREY, "+", "none"), _errors_of(base, condition.levels[1:], "reinit")),
            (
                draw.Look(f"reinit, {what}", draw.INK, "x", "none"),
                _errors_of(condition, condition.levels[1:], "reinit"),
            ),
        ]
        fresh += [title] if any(values.finite for _, points in panels[title][2:] for _, values in points) else []
    controls = "In grey and black, the mask" if fresh else "No mask was put"
    where = f", in the panel {listing(fresh)} only" if 0 < len(fresh) < len(panels) else ""
    return _drawing(
        panels,
        [condition for condition, _ in run.repelled],
        "The loss that repels from earlier solutions, or attracts to them",
        "After Maene et al.: every round trains with (λ/R)·Σ cos² to all R earlier solutions in its loss. λ above 0 "
        "repels, at the largest batch size; below 0 it attracts, at the smallest. "
        f"{controls} on a fresh initialization{where}. Mean and standard deviation over replicates.",
    )


def _drawing(
    panels: dict[str, list[_Line]], conditions: list[Condition], heading: str, caption: str, height: float = 0
) -> Drawing | None:
    """Lines over the weights remaining, a panel for each title: errors, or, in a panel of this height, barriers."""
    drawn = {title: [v.statistic for _, of in lines for _, v in of if v.finite] for title, lines in panels.items()}
    drawn = {title: found for title, found in drawn.items() if found}
    if not drawn:
        return None
    figure, all_axes = draw.canvas(height or 3.3 * len(drawn), len(drawn))
    for axes, (title, found) in zip(all_axes, drawn.items(), strict=True):
        lines = [(look, sorted(points, key=lambda point: -point[0])) for look, points in panels[title]]
        ends = draw.bars(axes, lines, move=lambda density, side: density * 0.985**side, elinewidth=0.7)
        if height:
            draw.barrier_axis(axes, max(100 * (statistic.mean + (statistic.std or 0)) for statistic in found))
        else:
            draw.error_axis(axes, found)
        if title:
            axes.set_title(title, fontsize=10, loc="left")
        _density_axis(axes, conditions)
        draw.label_ends(axes, ends)
    return Drawing(figure, heading, caption)


def _angles(run: Conditions) -> Drawing | None:
    conditions = [c for c in run.extremes if len(c.levels) > 1 and math.isfinite(max(map(max, c.matrix())))]
    if not conditions:
        return None
    figure, panels = draw.canvas(3.5 if len(conditions) > 1 else 4.6, 1, len(conditions))
    for axes, condition in zip(panels, conditions, strict=True):
        matrix = condition.matrix()
        image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
        names = [*map(str, condition.levels), "init"]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(condition.name, fontsize=10)
        for i, row in enumerate(matrix if len(names) <= 9 else ()):
            for j, value in enumerate(row):
                if i != j and math.isfinite(value):
                    how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5}
                    axes.text(j, i, f"{value:.2f}", color="white" if value < 0.6 else "black", **how)
    panels[0].set_ylabel("level")
    figure.colorbar(image, ax=panels, shrink=0.8, label="angular distance, 1: orthogonal")
    return Drawing(
        figure,
        "Angular distance between all rounds and the initialization",
        "After Maene et al.: 2·angle/π between the solutions of each two levels on their shared weights, and, in the "
        "last row, to the initialization. Means over replicates, for the smallest and the largest batch size.",
    )


def _histograms(run: Conditions) -> Drawing | None:
    conditions = [c for c in run.extremes if c.shares]
    if not conditions:
        return None
    replicate = min(k for c in conditions for k, _ in c.shares)
    levels = sorted({level for c in conditions for _, level in c.shares})
    figure, panels = draw.canvas(1.2 + 1.5 * len(conditions), len(conditions), len(levels))
    for place, axes in enumerate(panels):
        condition, level = conditions[place // len(levels)], levels[place % len(levels)]
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if shares := condition.shares.get((replicate, level)):
            places = sorted(shares)
            half = (places[1] - places[0]) / 2 if len(places) > 1 else 0.5
            edges = [places[0] - half, *(place + half for place in places)]
            axes.stairs([shares[place] for place in places], edges, fill=True, color=draw.COLOURS[1])
        if level == levels[0]:
            axes.set_ylabel("live weights")
        threshold = condition.at("threshold", level).get(replicate, math.nan)
        for side in (-threshold, threshold) if math.isfinite(threshold) else ():
            axes.axvline(side, color=draw.COLOURS[0], linewidth=0.9)
        shape = condition.at("bimodality", level).mean
        axes.set_title(f"{condition.name}, {weights(condition, level)}\nbimodality {shape:.2f}", fontsize=8.5)
        if condition is conditions[-1]:
            axes.set_xlabel("weight")
    return Drawing(
        figure,
        "Live weights and the next pruning threshold",
        "After Maene et al.: the live weights of all layers after training, and in orange the magnitude below which "
        f"the next round prunes; replicate {replicate}, at the smallest and the largest batch size. Bimodality: "
        "Sarle's coefficient, each layer in its own scale, mean over replicates; 0.33 for normal weights, above 0.56, "
        "that of uniform ones, suggests two humps. There may be two below: two equal normal humps have a dip between "
        "them from 0.40 on, and the tails of far weights lower it. So look at the shape.",
    )


def _trained(run: Conditions) -> str:
    """What the labels leave out: `Batch sizes, solid: lr 0.1. Warm-ups, dotted: batch 64, lr 0.3. `"""
    solid, dotted = (sorted({c.learning_rate for c in conditions}) for conditions in (run.plain, run.warm))
    sizes = sorted({c.batch_size for c in run.warm})
    return (f"Batch sizes, solid: lr {listing(solid)}. " if solid else "") + (
        f"Warm-ups, dotted: batch {listing(sizes)}, lr {listing(dotted)}. " if dotted else ""
    )


def _looks(run: Conditions) -> list[tuple[draw.Look, Condition]]:
    """How each condition is drawn: batch sizes solid, warm-ups dotted."""
    styles = ["-"] * len(run.plain) + [":"] * len(run.warm)
    conditions = run.plain + run.warm
    return [(draw.look(k, c.name, style), c) for k, (c, style) in enumerate(zip(conditions, styles, strict=True))]


def _errors_of(condition: Condition, levels: list[int], variant: str = "imp") -> list[tuple[float, Values]]:
    return [(condition.density(level), condition.errors(variant, level)) for level in levels]


def _density_axis(axes: "draw.Axes", conditions: list[Condition]) -> None:
    """Weights remaining, since conditions may prune by other shares; ticks where each condition ends, and where the one
    of most rounds stands, as far as their labels have room."""
    widest = max(conditions, key=lambda condition: condition.last)
    ends = sorted(condition.density() for condition in conditions)
    chosen: list[float] = []
    for density in (1.0, *ends, *(widest.density(level) for level in widest.levels)):
        if all(abs(math.log(density / other)) >= -math.log(ends[0]) / _TICKS for other in chosen):
            chosen.append(density)
    draw.density_axis(axes, chosen, 1.05, ends[0] / 1.05)
