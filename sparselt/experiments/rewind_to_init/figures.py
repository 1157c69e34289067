"""The figures of `rewind_to_init`, after those of Maene et al. 2021."""

import math
from collections.abc import Sequence

from sparselt.experiments.rewind_to_init.values import Condition, Conditions, measured, weights
from sparselt.report import drawing as draw
from sparselt.report.data import Data, Drawing
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import listing

_TICKS = 15  # whose labels an axis has room for
_Line = tuple[draw.Look, dict[float, Statistic]]
"""The replicates by density, and how they are drawn."""


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
        _line(of, {math.sqrt(c.density(k) * c.density(k + 1)): c.at("barrier", k, k + 1) for k in c.levels[:-1]})
        for of, c in _looks(run)
    ]
    lines = [line for line in lines if line[1]]
    if not lines:
        return None
    figure, (axes,) = draw.canvas(3.6)
    ends = _draw(axes, lines)
    draw.barrier_axis(axes, max(100 * (s.mean + (s.std or 0)) for _, points in lines for s in points.values()))
    _density_axis(axes, run.plain + run.warm)
    draw.label_ends(axes, ends)
    return Drawing(
        figure,
        "Barriers between successive rounds, rewound to initialization",
        "After Maene et al.: the error barrier on the straight line from each round's solution to the next, drawn "
        f"halfway between the two, by batch size at equal epochs and by warm-up. {_trained(run)}Mean and standard "
        "deviation over replicates. Dashed grey: the 2 points of Linear Mode Connectivity. Lines are evaluated at the "
        "setting's path_points; the paper takes 20 points.",
    )


def _errors(run: Conditions) -> Drawing | None:
    return _error_drawing(
        {"": [_errors_of(of, condition) for of, condition in _looks(run)]},
        run.plain + run.warm,
        "Test error of rewinding to initialization",
        f"With all weights, the dense network of each condition. {_trained(run)}Mean and standard deviation over "
        "replicates.",
    )


def _repulsion(run: Conditions) -> Drawing | None:
    panels = {}
    for condition, base in run.repelled:
        what = "repelled" if condition.repulsion > 0 else "attracted"
        panels[f"λ = {condition.repulsion:g}, {base.name}"] = [
            _errors_of(draw.Look("IMP", draw.COLOURS[1], "o"), base, "imp", condition.levels),
            _errors_of(draw.Look(f"IMP, {what}", draw.COLOURS[0], "s"), condition),
            _errors_of(draw.Look("reinit", draw.GREY, "+", "none"), base, "reinit", condition.levels[1:]),
            _errors_of(draw.Look(f"reinit, {what}", draw.INK, "x", "none"), condition, "reinit", condition.levels[1:]),
        ]
    fresh = [title for title, lines in panels.items() if any(points for _, points in lines[2:])]
    controls = (
        "In grey and black, the mask on a fresh initialization"
        if fresh
        else "No mask was put on a fresh initialization"
    )
    where = f", in the panel {listing(fresh)} only" if 0 < len(fresh) < len(panels) else ""
    return _error_drawing(
        panels,
        [condition for condition, _ in run.repelled],
        "The loss that repels from earlier solutions, or attracts to them",
        "After Maene et al.: every round trains with (λ/R)·Σ cos² to all R earlier solutions in its loss. λ above 0 "
        "repels, at the largest batch size; below 0 it attracts, at the smallest. "
        f"{controls}{where}. Mean and standard deviation over replicates.",
    )


def _error_drawing(
    panels: dict[str, list[_Line]], conditions: Sequence[Condition], heading: str, caption: str
) -> Drawing | None:
    drawn = {title: [line for line in lines if line[1]] for title, lines in panels.items()}
    drawn = {title: lines for title, lines in drawn.items() if lines}
    if not drawn:
        return None
    figure, all_axes = draw.canvas(3.3 * len(drawn), len(drawn))
    for axes, (title, lines) in zip(all_axes, drawn.items(), strict=True):
        ends = _draw(axes, lines)
        draw.error_axis(axes, [statistic for _, points in lines for statistic in points.values()])
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
                    how = {"ha": "center", "va": "center", "fontsize": 6.5}
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
        shape = Statistic.of(condition.at("bimodality", level).values()).mean
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


def _line(of: draw.Look, values: dict[float, Values]) -> _Line:
    """A line without what is not finite."""
    points = {density: Statistic.of(group.values()) for density, group in sorted(values.items(), reverse=True)}
    return of, {density: statistic for density, statistic in points.items() if statistic.n}


def _errors_of(of: draw.Look, condition: Condition, variant: str = "imp", levels: Sequence[int] | None = None) -> _Line:
    levels = condition.levels if levels is None else levels
    return _line(of, {condition.density(level): condition.errors(variant, level) for level in levels})


def _draw(axes: "draw.Axes", lines: list[_Line]) -> list[draw.End]:
    """Draws means with bars, side by side by a hair; the lines' ends."""
    ends = []
    for place, (of, points) in enumerate(lines):
        hair = 0.985 ** draw.side_by_side(place, len(lines), 1)
        moved = [(density * hair, statistic) for density, statistic in points.items()]
        ends.append(draw.bars(axes, moved, of, elinewidth=0.7))
    return ends


def _density_axis(axes: "draw.Axes", conditions: Sequence[Condition]) -> None:
    """Weights remaining, since conditions may prune by other shares; ticks where each condition ends, and where the one
    of most rounds stands, as far as their labels have room."""
    widest = max(conditions, key=lambda condition: condition.last)
    ends = sorted(condition.density() for condition in conditions)
    chosen: list[float] = []
    for density in (1.0, *ends, *(widest.density(level) for level in widest.levels)):
        if all(abs(math.log(density / other)) >= -math.log(ends[0]) / _TICKS for other in chosen):
            chosen.append(density)
    draw.density_axis(axes, chosen, 1.05, ends[0] / 1.05)
