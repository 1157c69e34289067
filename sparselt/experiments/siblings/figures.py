"""The figures of siblings: overlap against pretraining, and test error against their number."""

from typing import TYPE_CHECKING

from sparselt.experiments.siblings.values import (
    CHANCES,
    Values,
    compared,
    dense,
    overlaps,
    pretrained,
    pruned,
    table,
)
from sparselt.report.drawing import COLOURS, GREY, dense_label, label_ends, matching_band, ticks
from sparselt.report.section import Data, Drawing
from sparselt.report.summary import Statistic
from sparselt.report.wording import count, listing, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(data: Data) -> dict[str, Drawing]:
    """Jaccard against pretraining with both chances; test error against the number of siblings, for each pretraining
    whose masks were retrained."""
    drawn = {}
    if (figure := overlap_figure(data)) is not None:
        drawn["sibling_overlap"] = Drawing(
            figure,
            "Overlap of siblings' masks against shared pretraining",
            f"Mean Jaccard over the pairs of {count(compared(data), 'sibling')}, one-shot; mean and standard "
            "deviation over replicates, a line for each density. Dashed: the chance of masks with the same layerwise "
            "densities. Dotted: that of masks with the same density only.",
        )
    errors = table(data, "test_error")
    for pretraining in sorted({place.pretraining for place in errors}):
        levels = sorted({place.levels for place in errors if place.pretraining == pretraining})
        more = f"; hollow, dashed: {listing([pruned(level) for level in levels[1:]])}" if levels[1:] else ""
        if (figure := error_figure(data, pretraining)) is not None:
            drawn[f"sibling_error_{pretraining}"] = Drawing(
                figure,
                f"Test error of combined masks, {pretrained(pretraining)}",
                "All masks of a panel hold equally many weights, and are retrained from the weights that the siblings "
                "shared. Mean and standard deviation over replicates. Filled, solid: siblings pruned "
                f"{pruned(levels[0])}{more}. Thin line of the same style: the mean of one such sibling's mask, to "
                "compare with. Random: the layerwise densities of the union. Grey line: the dense mean; grey band: up "
                "to ε above it.",
            )
    return drawn


def overlap_figure(data: Data) -> "Figure | None":
    """Jaccard of one-shot masks against steps of shared pretraining, with layerwise and global chance."""
    lines = {metric: overlaps(data, metric) for metric in ("jaccard", *CHANCES)}
    if not lines["jaccard"]:
        return None
    figure, (axes,) = _panels(3.6, 1)
    densities = sorted({density for density, _ in lines["jaccard"]}, reverse=True)
    labels = []
    for place, density in enumerate(densities):
        colour = COLOURS[place % len(COLOURS)]
        for metric, style in (("jaccard", "o-"), *zip(CHANCES, ("--", ":"), strict=True)):
            points = {step: Statistic.of(v.values()) for (of, step), v in lines[metric].items() if of == density}
            points = {step: statistic for step, statistic in sorted(points.items()) if statistic.n}
            if not points:
                continue
            means = [statistic.mean for statistic in points.values()]
            bars = [statistic.std or 0 for statistic in points.values()] if metric == "jaccard" else None
            axes.errorbar(list(points), means, bars, fmt=style, color=colour, elinewidth=0.8)
            labels += [(f"{percent(density)} remaining", colour, means[-1])] if metric == "jaccard" else []
            labels += [("layerwise chance", colour, means[-1])] if metric == "jaccard_layerwise_chance" else []
            labels += [("global chance", colour, means[-1])] if metric == "jaccard_chance" else []
    axes.set_ylim(0, 1)
    axes.set_ylabel("Jaccard of two siblings' masks")
    axes.set_xlabel("steps of shared pretraining")
    steps = sorted({step for _, step in lines["jaccard"]})
    ticks(axes, {step: f"{step:,}" for step in steps})
    label_ends(axes, labels)
    return figure


def error_figure(data: Data, pretraining: int) -> "Figure | None":
    """Test error against the number of siblings, a panel a density."""
    errors = {place: values for place, values in table(data, "test_error").items() if place.pretraining == pretraining}
    errors = {place: _percent(values) for place, values in errors.items()}
    errors = {place: statistic for place, statistic in errors.items() if statistic.n}
    densities = sorted({place.density for place in errors}, reverse=True)
    if not densities:
        return None
    figure, panels = _panels(0.9 + 2.3 * len(densities), len(densities))
    counts = sorted({place.siblings for place in errors})
    high = 1.1 * max(statistic.mean + (statistic.std or 0) for statistic in errors.values())
    levels = sorted({place.levels for place in errors})
    for axes, density in zip(panels, densities, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
        axes.set_ylim(0, max(high, 0.1))
        labels = []
        for shift, (variant, (name, colour, marker)) in enumerate(_STYLES.items()):
            for level in levels:
                here = {
                    place.siblings: statistic
                    for place, statistic in sorted(errors.items())
                    if (place.variant, place.levels, place.density) == (variant, level, density)
                }
                if not here:
                    continue
                once = level == levels[0]
                # Shifted by a hair, so that bars do not hide each other.
                moved = 1.04 ** (shift - 1.5 + (0 if once else 0.5))
                axes.errorbar(
                    [siblings * moved for siblings in here],
                    [statistic.mean for statistic in here.values()],
                    [statistic.std or 0 for statistic in here.values()],
                    fmt=marker + ("-" if once else "--"),
                    color=colour,
                    elinewidth=0.8,
                    markerfacecolor=colour if once else "none",
                )
                last = list(here.values())[-1].mean
                if once:
                    labels.append((name, colour, last))
                if variant == "single":
                    axes.axhline(last, color=colour, linewidth=0.8, zorder=1, linestyle="-" if once else "--")
        matching_band(axes, dense(data))
        axes.set_ylabel(f"test error, %\nat {percent(density)} remaining")
        label_ends(axes, labels + dense_label(dense(data)))
    ticks(panels[-1], {siblings: str(siblings) for siblings in counts})
    panels[-1].set_xlabel("siblings combined")
    return figure


_STYLES = {
    "union": ("union", COLOURS[0], "o"),
    "intersection": ("intersection", COLOURS[1], "s"),
    "single": ("one sibling", COLOURS[2], "D"),
    "random": ("random", GREY, "x"),
}


def _percent(values: Values) -> Statistic:
    return Statistic.of(100 * value for value in values.values())


def _panels(height: float, rows: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height), layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
