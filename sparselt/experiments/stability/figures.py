"""The figures of `stability`, after those of Frankle et al. 2019 (Stabilizing)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparselt.experiments.stability.values import (
    RATES,
    STABILITIES,
    angles,
    dense_errors,
    density,
    distances,
    errors,
    measured_levels,
    measured_rates,
    rewind_steps,
)
from sparselt.report.drawing import COLOURS, GREY, label_ends
from sparselt.report.section import Data, Drawing
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOK = {"imp": ("IMP", COLOURS[1], "o", "-"), "random": ("random mask", GREY, "x", "--")}


def drawings(data: Data) -> dict[str, Drawing]:
    """Distances and error against the rewind step, for each level; the learning rates beside each other."""
    found: dict[str, Drawing] = {}
    levels = measured_levels(data)
    for level in levels:
        steps = rewind_steps(data, level)
        if steps:
            name = "stability_against_rewind" + (f"_level_{level}" if len(levels) > 1 else "")
            found[name] = _against_rewind(data, level, steps)
    if levels and len(measured_rates(data)) > 1:
        found["stability_by_learning_rate"] = _by_rate(data, levels[-1])
    return found


def _against_rewind(data: Data, level: int, steps: Sequence[int]) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 6.2), layout="constrained")
    panels = figure.subplot_mosaic(
        [["angle pruning", "angle order"], ["l2_distance pruning", "l2_distance order"], ["error", "error"]]
    )
    for name, axes in panels.items():
        metric, _, kind = name.partition(" ")
        for variant in _LOOK:
            values = [
                errors(data, variant, level, step)
                if metric == "error"
                else distances(data, metric, variant, level, step, kind=kind)
                for step in steps
            ]
            _line(axes, variant, values, 100 if metric == "error" else 1)
        if metric == "error":
            axes.set_ylabel("test error, %")
            _dense_line(axes, dense_errors(data))
            axes.legend(frameon=False, fontsize=9, loc="lower left", ncols=2)
        else:
            _distance_axis(axes, metric)
        if metric == "angle":
            axes.set_title(f"stability to {STABILITIES[kind]}", fontsize=10)
        axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
        axes.set_xlim(-0.3, len(steps) - 0.7)
    panels["error"].set_xlabel("rewind step")
    return Drawing(
        figure,
        f"Stability and error against the rewind step, {density(data, level)} of the weights",
        "After the figures of Stabilizing. Left: the angle and L2 distance between the dense network, "
        "restricted to the mask, and the subnetwork, both trained on one data order. Right: between two copies of the "
        "subnetwork trained in different orders. Below: test error; grey line: the dense network. Mean and standard "
        "deviation over replicates. Lower is more stable; at 90° two solutions have nothing in common. A random mask "
        "has the ticket's layerwise densities.",
    )


def _by_rate(data: Data, level: int) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    rates = measured_rates(data)
    labels = []
    for axes, name in zip(figure.subplots(1, 3), ("pruning", "order", "error"), strict=True):
        for variant in _LOOK:
            values = [
                errors(data, variant, level, 0, rate)
                if name == "error"
                else angles(data, variant, level, 0, rate, name)
                for rate in rates
            ]
            _line(axes, variant, values, 100 if name == "error" else 1, joined=False)
            if name == "error":
                labels.append((*_LOOK[variant][:2], 100 * Statistic.of(values[-1].values()).mean))
        if name == "error":
            dense = [Statistic.of(dense_errors(data, rate).values()).mean * 100 for rate in rates]
            axes.plot(range(len(rates)), dense, "_", color=GREY, markersize=16)
            axes.set_ylabel("test error, %")
            axes.set_ylim(bottom=0)
            labels.append(("dense", GREY, dense[-1]))
        else:
            _distance_axis(axes, "angle")
            axes.set_title(f"stability to {STABILITIES[name]}", fontsize=9.5)
        axes.set_xticks(range(len(rates)), [RATES[rate] for rate in rates])
        axes.set_xlim(-0.5, len(rates) - 0.5)
    label_ends(axes, [label for label in labels if math.isfinite(label[2])])
    return Drawing(
        figure,
        f"Learning rates at rewind step 0, {density(data, level)} of the weights",
        "After Stabilizing, which resets ResNet-20 and VGG-19 to initialization: the angles between dense network and "
        "subnetwork, and between two copies of it, by learning rate. Mean and standard deviation over replicates.",
    )


def _line(axes: "Axes", variant: str, values: Sequence[Values], scale: float, joined: bool = True) -> None:
    label, colour, marker, line = _LOOK[variant]
    statistics = [Statistic.of(group.values()) for group in values]
    shift = 0.06 if variant == "random" else -0.06
    axes.errorbar(
        [place + shift for place in range(len(values))],
        [scale * statistic.mean for statistic in statistics],
        [scale * (statistic.std or 0) for statistic in statistics],
        color=colour,
        marker=marker,
        linestyle=line if joined else "none",
        elinewidth=0.8,
        label=label,
    )


def _distance_axis(axes: "Axes", metric: str) -> None:
    axes.set_ylabel("angle, degrees" if metric == "angle" else "L2 distance")
    axes.set_ylim(0, 100 if metric == "angle" else None)
    if metric == "angle":
        axes.set_yticks([0, 30, 60, 90])
        axes.axhline(90, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))


def _dense_line(axes: "Axes", dense: Values) -> None:
    statistic = Statistic.of(dense.values())
    axes.set_ylim(bottom=0)
    if statistic.n:
        axes.axhline(100 * statistic.mean, color=GREY, linewidth=0.8, zorder=1)
