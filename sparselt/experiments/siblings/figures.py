"""The measurements of siblings, and their figures: overlap against pretraining, test error against their number."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparselt.report import drawing as draw
from sparselt.report import statistic
from sparselt.report.data import Data, Drawing, once
from sparselt.report.results import conditions
from sparselt.report.rules import dense_errors
from sparselt.report.statistic import Values
from sparselt.report.wording import count, listing, percent

CHANCES = ("jaccard_layerwise_chance", "jaccard_chance")
"""The metrics of the Jaccard index expected by chance, by layer and globally, see `sparselt.analysis.overlap`."""

_LOOKS = {
    "union": draw.Look("union", draw.COLOURS[0], "o"),
    "intersection": draw.Look("intersection", draw.COLOURS[1], "s"),
    "single": draw.Look("one sibling", draw.COLOURS[2], "D"),
    "random": draw.Look("random", draw.GREY, "x"),
}


class Place(NamedTuple):
    """What a group of rows shares but their replicate."""

    variant: str
    pretraining: int
    levels: int
    siblings: int
    density: float


Places = Mapping[Place, Values]
"""A metric by place."""


@once
def table(data: Data, metric: str) -> Places:
    """A metric by place; rows whose condition names no siblings, as the dense network's, are left out."""
    found: dict[Place, Values] = defaultdict(Values)
    for row in data.select(experiment="siblings", metric=metric):
        at = conditions(row.condition)
        if "siblings" in at and "density" in at:
            place = Place(row.variant, row.rewind_step or 0, row.level, int(at["siblings"]), float(at["density"]))
            found[place][row.replicate] = row.value
    return dict(found)


def retrained(data: Data) -> dict[tuple[int, int], Places]:
    """The test errors of each pretraining and each way of pruning whose masks were retrained, ascending."""
    errors = table(data, "test_error")
    ways = sorted({(place.pretraining, place.levels) for place in errors})
    return {way: {p: values for p, values in errors.items() if (p.pretraining, p.levels) == way} for way in ways}


@once
def compared(data: Data) -> int:
    """How many siblings were compared after every pretraining; the least if there are several such numbers."""
    places = [place for place in table(data, "jaccard") if place.levels == 1]
    steps = {place.pretraining for place in places}
    by_count = {k: {place.pretraining for place in places if place.siblings == k} for k in {p.siblings for p in places}}
    return min(by_count, key=lambda k: (len(steps - by_count[k]), k), default=0)


@once
def overlaps(data: Data, metric: str) -> Mapping[tuple[float, int], Values]:
    """A metric of one-shot masks by density and pretraining, ascending, all of equally many siblings."""
    found = sorted(table(data, metric).items())
    return {(p.density, p.pretraining): v for p, v in found if p.levels == 1 and p.siblings == compared(data)}


def densities(places: Iterable[float]) -> list[float]:
    """Each once, descending."""
    return sorted(set(places), reverse=True)


def after(data: Data, metric: str, step: int) -> Values:
    """A metric after one pretraining, by replicate, averaged over densities."""
    return averaged([values for (_, of), values in overlaps(data, metric).items() if of == step])


def against(errors: Places, first: str, second: str, counts: Iterable[int]) -> Values:
    """error(first) − error(second) by replicate, averaged over the densities and these numbers of siblings."""
    differences = []
    for place, values in errors.items():
        if place.variant == first and place.siblings in counts:
            other = place._replace(variant=second, siblings=1 if second == "single" else place.siblings)
            differences.append(values - errors.get(other, Values()))
    return averaged(differences)


def averaged(groups: Sequence[Values]) -> Values:
    """Mean over conditions by replicate; a replicate that lacks one, or diverged in one, is left out."""
    return statistic.averaged(groups).finite


def pruned(levels: int) -> str:
    """How siblings were pruned."""
    return "one-shot" if levels == 1 else f"in {levels} prunings"


def pretrained(steps: int) -> str:
    """Of which pretraining, as the end of a sentence."""
    return f"after {count(steps, 'step')} of shared pretraining" if steps else "without shared pretraining"


def drawings(data: Data) -> dict[str, Drawing]:
    """Jaccard against pretraining with both chances; test error against the number of siblings, for each pretraining
    whose masks were retrained."""
    drawn: dict[str, Drawing | None] = {"sibling_overlap": _overlap(data)} if overlaps(data, "jaccard") else {}
    for pretraining in dict.fromkeys(pretraining for pretraining, _ in retrained(data)):
        drawn[f"sibling_error_{pretraining}"] = _errors(data, pretraining)
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def _overlap(data: Data) -> Drawing:
    """Jaccard of one-shot masks against steps of shared pretraining, with layerwise and global chance."""
    names = {CHANCES[0]: ("layerwise chance", "", "--"), CHANCES[1]: ("global chance", "", ":")}
    lines = []
    for place, density in enumerate(densities(density for density, _ in overlaps(data, "jaccard"))):
        for metric in ("jaccard", *CHANCES):
            name, marker, style = names.get(metric, (f"{percent(density)} remaining", "o", "-"))
            look = draw.Look(name, draw.COLOURS[place % len(draw.COLOURS)], marker, style)
            lines.append((look, [(step, v) for (of, step), v in overlaps(data, metric).items() if of == density]))
    figure, (axes,) = draw.canvas(3.6)
    ends = draw.bars(axes, lines, 1, lambda step, side: step)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Jaccard of two siblings' masks")
    axes.set_xlabel("steps of shared pretraining")
    draw.ticks(axes, {step: f"{step:,}" for step in sorted({step for _, step in overlaps(data, "jaccard")})})
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
    ways = [levels for step, levels in retrained(data) if step == pretraining]
    places = {p: v.statistic for p, v in sorted(table(data, "test_error").items()) if p.pretraining == pretraining}
    errors = {place: error for place, error in places.items() if error.n}
    if not errors:
        return None
    high = 110 * max(error.mean + (error.std or 0) for error in errors.values())
    counts = sorted({place.siblings for place in errors})
    panels = densities(place.density for place in errors)
    figure, all_axes = draw.canvas(0.9 + 2.3 * len(panels), len(panels), sharex=True)
    for axes, density in zip(all_axes, panels, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
        axes.set_ylim(0, max(high, 0.1))
        ends = []
        for shift, (variant, look) in enumerate(_LOOKS.items()):
            for way in ways:
                # Shifted by a hair, so that bars do not hide each other.
                moved = 1.04 ** (shift - (1.5 if way == ways[0] else 1))
                here = [
                    (p.siblings * moved, e) for p, e in errors.items() if (p[0], p[2], p[4]) == (variant, way, density)
                ]
                how = look if way == ways[0] else look._replace(line="--", hollow=True)
                end = draw.bars(axes, [(how, here)])
                ends += end if way == ways[0] else []
                if variant == "single" and end:
                    axes.axhline(end[0][2], color=look.colour, linewidth=0.8, zorder=1, linestyle=how.line)
        dense = dense_errors(data).statistic
        draw.matching_band(axes, dense)
        axes.set_ylabel(f"test error, %\nat {percent(density)} remaining")
        draw.label_ends(axes, ends + draw.dense_label(dense))
    draw.ticks(axes, {siblings: str(siblings) for siblings in counts})
    axes.set_xlabel("siblings combined")
    more = f"; hollow, dashed: {listing([pruned(way) for way in ways[1:]])}" if ways[1:] else ""
    return Drawing(
        figure,
        f"Test error of combined masks, {pretrained(pretraining)}",
        "All masks of a panel hold equally many weights, and are retrained from the weights that the siblings "
        "shared. Mean and standard deviation over replicates. Filled, solid: siblings pruned "
        f"{pruned(ways[0])}{more}. Thin line of the same style: the mean of one such sibling's mask, to "
        "compare with. Random: the layerwise densities of the union. Grey line: the dense mean; grey band: up "
        "to ε above it.",
    )
