"""The figures of siblings: overlap against pretraining, and test error against their number."""

from sparselt.experiments.siblings.values import (
    CHANCES,
    Place,
    compared,
    dense,
    overlaps,
    pretrained,
    pruned,
    retrained,
)
from sparselt.report import drawing as draw
from sparselt.report.data import Data, Drawing
from sparselt.report.statistic import Statistic
from sparselt.report.wording import count, listing, percent

_LOOKS = {
    "union": draw.Look("union", draw.COLOURS[0], "o"),
    "intersection": draw.Look("intersection", draw.COLOURS[1], "s"),
    "single": draw.Look("one sibling", draw.COLOURS[2], "D"),
    "random": draw.Look("random", draw.GREY, "x"),
}


def drawings(data: Data) -> dict[str, Drawing]:
    """Jaccard against pretraining with both chances; test error against the number of siblings, for each pretraining
    whose masks were retrained."""
    drawn = {"sibling_overlap": _overlap(data)} if overlaps(data, "jaccard") else {}
    for pretraining in dict.fromkeys(pretraining for pretraining, _ in retrained(data)):
        drawn[f"sibling_error_{pretraining}"] = _errors(data, pretraining)
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def _overlap(data: Data) -> Drawing:
    """Jaccard of one-shot masks against steps of shared pretraining, with layerwise and global chance."""
    lines = {
        "jaccard": ("", "o", "-"),
        CHANCES[0]: ("layerwise chance", "", "--"),
        CHANCES[1]: ("global chance", "", ":"),
    }
    places = sorted(overlaps(data, "jaccard"))
    figure, (axes,) = draw.canvas(3.6)
    ends = []
    for place, density in enumerate(sorted({density for density, _ in places}, reverse=True)):
        for metric, (name, marker, style) in lines.items():
            found = sorted((step, v) for (of, step), v in overlaps(data, metric).items() if of == density)
            points = {step: Statistic.of(values.values()) for step, values in found}
            points = {step: statistic for step, statistic in points.items() if statistic.n}
            if points:
                look = draw.Look(
                    name or f"{percent(density)} remaining", draw.COLOURS[place % len(draw.COLOURS)], marker, style
                )
                ends.append(draw.bars(axes, points.items(), look, 1, deviations=metric == "jaccard"))
    axes.set_ylim(0, 1)
    axes.set_ylabel("Jaccard of two siblings' masks")
    axes.set_xlabel("steps of shared pretraining")
    draw.ticks(axes, {step: f"{step:,}" for step in sorted({step for _, step in places})})
    draw.label_ends(axes, ends)
    return Drawing(
        figure,
        "Overlap of siblings' masks against shared pretraining",
        f"Mean Jaccard over the pairs of {count(compared(data), 'sibling')}, one-shot; mean and standard "
        "deviation over replicates, a line for each density. Dashed: the chance of masks with the same layerwise "
        "densities. Dotted: that of masks with the same density only.",
    )


def _errors(data: Data, pretraining: int) -> Drawing | None:
    """Test error against the number of siblings, a panel a density."""
    found = {of: errors for (step, of), errors in retrained(data).items() if step == pretraining}
    errors = {place: Statistic.of(values.values()) for places in found.values() for place, values in places.items()}
    errors = {place: statistic for place, statistic in sorted(errors.items()) if statistic.n}
    if not errors:
        return None
    levels = sorted({place.levels for place in errors})
    densities = sorted({place.density for place in errors}, reverse=True)
    counts = sorted({place.siblings for place in errors})
    high = 110 * max(statistic.mean + (statistic.std or 0) for statistic in errors.values())
    figure, panels = draw.canvas(0.9 + 2.3 * len(densities), len(densities), sharex=True)
    for axes, density in zip(panels, densities, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
        axes.set_ylim(0, max(high, 0.1))
        ends = []
        for shift, (variant, look) in enumerate(_LOOKS.items()):
            for level in levels:
                once = level == levels[0]
                # Shifted by a hair, so that bars do not hide each other.
                moved = 1.04 ** (shift - 1.5 + (0 if once else 0.5))
                here = {
                    place.siblings * moved: statistic
                    for place, statistic in errors.items()
                    if place == Place(variant, pretraining, level, place.siblings, density)
                }
                if here:
                    line, face = ("-", look.colour) if once else ("--", "none")
                    end = draw.bars(axes, here.items(), look._replace(line=line), markerfacecolor=face)
                    ends += [end] if once else []
                    if variant == "single":
                        axes.axhline(end[2], color=look.colour, linewidth=0.8, zorder=1, linestyle=line)
        draw.matching_band(axes, dense(data))
        axes.set_ylabel(f"test error, %\nat {percent(density)} remaining")
        draw.label_ends(axes, ends + draw.dense_label(dense(data)))
    draw.ticks(panels[-1], {siblings: str(siblings) for siblings in counts})
    panels[-1].set_xlabel("siblings combined")
    more = f"; hollow, dashed: {listing([pruned(level) for level in sorted(found)[1:]])}" if len(found) > 1 else ""
    return Drawing(
        figure,
        f"Test error of combined masks, {pretrained(pretraining)}",
        "All masks of a panel hold equally many weights, and are retrained from the weights that the siblings "
        "shared. Mean and standard deviation over replicates. Filled, solid: siblings pruned "
        f"{pruned(min(found))}{more}. Thin line of the same style: the mean of one such sibling's mask, to "
        "compare with. Random: the layerwise densities of the union. Grey line: the dense mean; grey band: up "
        "to ε above it.",
    )
