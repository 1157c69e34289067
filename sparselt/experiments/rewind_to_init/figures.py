"""The figures of `rewind_to_init`, after those of Maene et al. 2021."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparselt.experiments.rewind_to_init.values import EXPERIMENT, Condition, Rounds
from sparselt.report.drawing import COLOURS, GREY, INK, barrier_axis, error_axis, label_ends, ticks
from sparselt.report.section import Data, Drawing
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import Values
from sparselt.report.wording import listing, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "v", "P", "*")
_TICKS = 15  # whose labels an axis has room for
_Line = tuple[str, str, str, str, dict[float, Values]]
"""Label, colour, marker, line style, and by density the values of the replicates."""


def drawings(data: Data) -> dict[str, Drawing]:
    """Barriers, errors, angles, histograms, and the repelling loss; each where it was measured."""
    rounds = Rounds(data)
    found = {
        "init_barriers": _barriers(rounds),
        "init_errors": _errors(rounds),
        "init_angles": _angles(rounds),
        "init_histograms": _histograms(data, rounds),
        "init_repulsion": _repulsion(rounds),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def _barriers(rounds: Rounds) -> Drawing | None:
    lines = [
        (
            label,
            colour,
            marker,
            style,
            {_between(rounds, c, k): rounds.at("barrier", c, k, k + 1) for k in rounds.levels(c)[:-1]},
        )
        for label, colour, marker, style, c in _looks(rounds)
    ]
    drawn = _finite(lines, scale=100)
    if not drawn:
        return None
    figure, axes = _canvas(3.6)
    ends = _draw(axes, drawn)
    barrier_axis(axes, max(mean + std for *_, means in drawn for mean, std in means.values()))
    _density_axis(axes, rounds, rounds.plain + rounds.warm)
    label_ends(axes, ends)
    return Drawing(
        figure,
        "Barriers between successive rounds, rewound to initialization",
        "After Maene et al.: the error barrier on the straight line from each round's solution to the next, drawn "
        f"halfway between the two, by batch size at equal epochs and by warm-up. {_trained(rounds)}Mean and standard "
        "deviation over replicates. Dashed grey: the 2 points of Linear Mode Connectivity. Lines are evaluated at the "
        "setting's path_points; the paper takes 20 points.",
    )


def _errors(rounds: Rounds) -> Drawing | None:
    lines = [
        (label, colour, marker, style, _errors_of(rounds, "imp", c, rounds.levels(c)))
        for label, colour, marker, style, c in _looks(rounds)
    ]
    return _error_drawing(
        [("", lines)],
        rounds,
        rounds.plain + rounds.warm,
        "Test error of rewinding to initialization",
        f"With all weights, the dense network of each condition. {_trained(rounds)}Mean and standard deviation over "
        "replicates.",
    )


def _repulsion(rounds: Rounds) -> Drawing | None:
    panels = []
    for condition in rounds.repelled:
        base, levels = condition.base, rounds.levels(condition)
        what = "repelled" if condition.repulsion > 0 else "attracted"
        lines: list[_Line] = [
            ("IMP", COLOURS[1], "o", "-", _errors_of(rounds, "imp", base, levels)),
            (f"IMP, {what}", COLOURS[0], "s", "-", _errors_of(rounds, "imp", condition, levels)),
            ("reinit", GREY, "+", "none", _errors_of(rounds, "reinit", base, levels[1:])),
            (f"reinit, {what}", INK, "x", "none", _errors_of(rounds, "reinit", condition, levels[1:])),
        ]
        panels.append((f"λ = {condition.repulsion:g}, {base.name}", lines))
    fresh = [title for title, lines in panels if _finite(lines[2:], scale=100)]
    controls = (
        "In grey and black, the mask on a fresh initialization"
        if fresh
        else "No mask was put on a fresh initialization"
    )
    where = f", in the panel {listing(fresh)} only" if 0 < len(fresh) < len(panels) else ""
    return _error_drawing(
        panels,
        rounds,
        rounds.repelled,
        "The loss that repels from earlier solutions, or attracts to them",
        "After Maene et al.: every round trains with (λ/R)·Σ cos² to all R earlier solutions in its loss. λ above 0 "
        "repels, at the largest batch size; below 0 it attracts, at the smallest. "
        f"{controls}{where}. Mean and standard deviation over replicates.",
    )


def _error_drawing(
    panels: list[tuple[str, list[_Line]]], rounds: Rounds, conditions: list[Condition], heading: str, caption: str
) -> Drawing | None:
    drawn = [(title, _finite(lines, scale=100)) for title, lines in panels]
    drawn = [(title, lines) for title, lines in drawn if lines]
    if not drawn:
        return None
    figure, _ = _canvas(3.3 * len(drawn), rows=len(drawn))
    for axes, (title, lines) in zip(figure.axes, drawn, strict=True):
        ends = _draw(axes, lines)
        bars = [bar for *_, means in lines for bar in means.values()]
        error_axis(axes, [mean for mean, _ in bars], [mean + std for mean, std in bars])
        if title:
            axes.set_title(title, fontsize=10, loc="left")
        _density_axis(axes, rounds, conditions)
        label_ends(axes, ends)
    return Drawing(figure, heading, caption)


def _angles(rounds: Rounds) -> Drawing | None:
    from matplotlib.figure import Figure

    conditions = [c for c in rounds.extremes if math.isfinite(max(map(max, rounds.matrix(c)), default=math.nan))]
    conditions = [c for c in conditions if len(rounds.levels(c)) > 1]
    if not conditions:
        return None
    figure = Figure(figsize=(6.2, 3.5 if len(conditions) > 1 else 4.6), layout="constrained")
    panels = figure.subplots(1, len(conditions), squeeze=False)[0]
    for axes, condition in zip(panels, conditions, strict=True):
        matrix = rounds.matrix(condition)
        image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
        names = [*map(str, rounds.levels(condition)), "init"]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(condition.name, fontsize=10)
        if len(names) <= 9:
            for i, row in enumerate(matrix):
                for j, value in enumerate(row):
                    if i != j and math.isfinite(value):
                        colour = "white" if value < 0.6 else "black"
                        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    panels[0].set_ylabel("level")
    figure.colorbar(image, ax=list(panels), shrink=0.8, label="angular distance, 1: orthogonal")
    return Drawing(
        figure,
        "Angular distance between all rounds and the initialization",
        "After Maene et al.: 2·angle/π between the solutions of each two levels on their shared weights, and, in the "
        "last row, to the initialization. Means over replicates, for the smallest and the largest batch size.",
    )


def _histograms(data: Data, rounds: Rounds) -> Drawing | None:
    from matplotlib.figure import Figure

    rows = data.select(experiment=EXPERIMENT, metric="weight_share", condition=tuple(c.text for c in rounds.extremes))
    conditions = [c for c in rounds.extremes if any(row.condition == c.text for row in rows)]
    if not conditions:
        return None
    replicate = min(row.replicate for row in rows)
    levels = sorted({row.level for row in rows})
    figure = Figure(figsize=(6.2, 1.2 + 1.5 * len(conditions)), layout="constrained")
    panels = figure.subplots(len(conditions), len(levels), squeeze=False)
    for line, condition in zip(panels, conditions, strict=True):
        for axes, level in zip(line, levels, strict=True):
            shares = {r.position: r.value for r in rows if (r.condition, r.level, r.replicate) ==
                      (condition.text, level, replicate)}  # fmt: skip
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            threshold = rounds.at("threshold", condition, level).get(replicate, math.nan)
            if shares:
                places = sorted(shares)
                axes.stairs([shares[place] for place in places], _edges(places), fill=True, color=COLOURS[1])
            if axes is line[0]:
                axes.set_ylabel("live weights")
            if math.isfinite(threshold):
                for side in (-threshold, threshold):
                    axes.axvline(side, color=COLOURS[0], linewidth=0.9)
            shape = Statistic.of(rounds.at("bimodality", condition, level).values()).mean
            density = percent(rounds.density(condition, level))
            axes.set_title(f"{condition.name}, {density}\nbimodality {shape:.2f}", fontsize=8.5)
    for axes in panels[-1]:
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


def _edges(places: list[float]) -> list[float]:
    half = (places[1] - places[0]) / 2 if len(places) > 1 else 0.5
    return [places[0] - half, *(place + half for place in places)]


def _trained(rounds: Rounds) -> str:
    """What the labels leave out: `Batch sizes, solid: lr 0.1. Warm-ups, dotted: batch 64, lr 0.3. `"""
    solid, dotted = (sorted({c.learning_rate for c in conditions}) for conditions in (rounds.plain, rounds.warm))
    sizes = sorted({c.batch_size for c in rounds.warm})
    return (f"Batch sizes, solid: lr {listing(solid)}. " if solid else "") + (
        f"Warm-ups, dotted: batch {listing(sizes)}, lr {listing(dotted)}. " if dotted else ""
    )


def _looks(rounds: Rounds) -> list[tuple[str, str, str, str, Condition]]:
    """Each condition with its label, colour, marker and line: batch sizes solid, warm-ups dotted."""
    plain = [
        (c.name, COLOURS[k % len(COLOURS)], _MARKERS[k % len(_MARKERS)], "-", c) for k, c in enumerate(rounds.plain)
    ]
    first = len(plain)
    return plain + [
        (c.name, COLOURS[k % len(COLOURS)], _MARKERS[k % len(_MARKERS)], ":", c)
        for k, c in enumerate(rounds.warm, first)
    ]


def _finite(lines: list[_Line], scale: float) -> list[tuple]:
    """The lines with mean and standard deviation in place of values, without what is not finite."""
    drawn = []
    for *look, values in lines:
        means = {}
        for density, group in values.items():
            statistic = Statistic.of(group.values())
            if statistic.n:
                means[density] = (scale * statistic.mean, scale * (statistic.std or 0))
        if means:
            drawn.append((*look, means))
    return drawn


def _errors_of(rounds: Rounds, variant: str, condition: Condition, levels: Sequence[int]) -> dict[float, Values]:
    return {rounds.density(condition, level): rounds.errors(variant, condition, level) for level in levels}


def _between(rounds: Rounds, condition: Condition, level: int) -> float:
    """Where a line to the next round stands: halfway on the logarithmic axis."""
    return math.sqrt(rounds.density(condition, level) * rounds.density(condition, level + 1))


def _draw(axes: "Axes", lines: list[tuple]) -> list[tuple[str, str, float]]:
    """Draws means with bars, side by side by a hair; the labels for the lines' ends."""
    ends = []
    for place, (label, colour, marker, style, means) in enumerate(lines):
        hair = 0.985 ** (place - (len(lines) - 1) / 2)
        densities = sorted(means, reverse=True)
        axes.errorbar(
            [density * hair for density in densities],
            [means[density][0] for density in densities],
            [means[density][1] for density in densities],
            color=colour,
            marker=marker,
            linestyle=style,
            elinewidth=0.7,
        )
        ends.append((label, colour, means[densities[-1]][0]))
    return ends


def _density_axis(axes: "Axes", rounds: Rounds, conditions: list[Condition]) -> None:
    """Weights remaining, since conditions may prune by other shares; ticks where each condition ends, and where the one
    of most rounds stands, as far as their labels have room."""
    widest = max(conditions, key=rounds.last)
    ends = sorted(rounds.density(c, rounds.last(c)) for c in conditions)
    chosen: list[float] = []
    for density in (1.0, *ends, *(rounds.density(widest, level) for level in rounds.levels(widest))):
        if all(abs(math.log(density / other)) >= -math.log(ends[0]) / _TICKS for other in chosen):
            chosen.append(density)
    axes.set_xscale("log")
    axes.set_xlim(1.05, ends[0] / 1.05)
    ticks(axes, {density: percent(density).rstrip("%") for density in sorted(chosen, reverse=True)})
    axes.set_xlabel("weights remaining, % (log scale)")


def _canvas(height: float, rows: int = 1) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False)[0][0]
