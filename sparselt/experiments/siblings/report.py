"""What became of Movva et al. 2021: how alike siblings' masks are, and whether combining them is worth it.

The four findings of the abstract; those on errors once for each way the siblings were pruned, one-shot or in several
prunings, and the fourth once for all numbers of siblings and once for the largest. Each replicate is averaged over the
densities, the whole trade-off (and numbers of siblings), first. Near chance: the share of the way from chance to
identical masks, against both chances. Pretraining: the Jaccard above either chance, after the longest against after the
shortest. Errors at equal density are similar, or match, within ε. See `sparselt.report.rules`.
"""

from collections import Counter
from collections.abc import Iterator

from sparselt.experiments.siblings import figures as measured
from sparselt.experiments.siblings.figures import CHANCES, Place, Places, overlaps, pretrained, pruned, retrained, table
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.results import conditions
from sparselt.report.rules import NEAR_CHANCE, Limit, all_of, below, dense_errors, epsilon, lower, within
from sparselt.report.statistic import Values
from sparselt.report.wording import count, listing, mean_and_std, percent, points, verb

PAPER = "Movva et al. 2021"

_CHANCES = ("layerwise", "global")
_NAMES = {
    "union": "union",
    "intersection": "intersection",
    "single": "the mask of one sibling",
    "random": "a random mask like the union",
}


@listed
def findings(data: Data) -> Iterator[str]:
    """Overlap at the ends of the pretraining, how far many masks agree, error at equal density, what is not shown."""
    for density in measured.densities(density for density, _ in overlaps(data, "jaccard")):
        yield _overlap_text(data, density)
    for (pretraining, levels), errors in retrained(data).items():
        yield from _error_texts(data, errors, pretraining, levels)
    errors = table(data, "test_error")
    steps = {step for _, step in overlaps(data, "jaccard")}
    if unseen := sorted(steps - {place.pretraining for place in errors}):
        steps_text = f"{listing(unseen)} {verb(unseen[-1], 'step', 'steps')}"
        yield f"Masks after {steps_text} of shared pretraining were compared, not retrained."
    empty = data.select(experiment="siblings", metric="layer_density", value=0.0)
    if layers := sorted(Counter(conditions(row.condition).get("layer") for row in empty).items()):
        texts = [f"{layer} ({count(times, 'mask')})" for layer, times in layers]
        yield f"Combined masks left no weight in {listing(texts)}."
    if lost := sum(values.statistic.diverged for values in errors.values()):
        yield f"{count(lost, 'retraining')} diverged and {verb(lost, 'is', 'are')} left out."


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Near chance without pretraining; more with it; equal errors of union, intersection and one sibling's mask."""
    yield from _near_chance(data)
    yield from _pretraining(data)
    for (pretraining, levels), errors in retrained(data).items():
        how = pruned(levels) if levels == 1 else f"{pruned(levels)}, ours"
        margin = epsilon(dense_errors(data).statistic)
        yield from _equal_errors(errors, margin, f" ({how}, {pretrained(pretraining)})")


SECTION = Section("Siblings: consistency and composability of masks", measured.drawings, findings, claims)


def _overlap_text(data: Data, density: float) -> str:
    """Overlap of the masks of one density after the shortest and the longest pretraining."""
    steps = sorted(step for at, step in overlaps(data, "jaccard") if at == density)
    parts = []
    for step in dict.fromkeys((steps[0], steps[-1])):
        jaccard, *chances = (
            format(overlaps(data, m).get((density, step), Values()), ".3f") for m in ("jaccard", *CHANCES)
        )
        parts.append(f"{jaccard} {pretrained(step)} (chance {chances[0]} layerwise, {chances[1]} global)")
    text = (
        f"The masks of two siblings at {percent(density)} of the weights have a Jaccard of {', and of '.join(parts)}."
    )
    places = [p for p in table(data, "union") if p.variant == "siblings" and (p.density, p.levels) == (density, 1)]
    if places:
        most = max(places, key=lambda place: (place.siblings, place.pretraining))
        union, least, chance, least_chance = (
            format(table(data, metric).get(most, Values()), ".3f")
            for metric in ("union", "intersection", "union_layerwise_chance", "intersection_layerwise_chance")
        )
        text += (
            f" The union of {most.siblings} of them, {pretrained(most.pretraining)}, holds {union} of all weights "
            f"(layerwise chance {chance}), the intersection {least} (chance {least_chance})."
        )
    return text


def _error_texts(data: Data, errors: Places, pretraining: int, levels: int) -> Iterator[str]:
    """Errors at equal density with the most siblings, and what the differences come to over all conditions."""
    counts = sorted({place.siblings for place in errors if place.variant == "union"})
    if not counts:
        return
    for density in measured.densities(place.density for place in errors):
        parts = []
        for variant, name in _NAMES.items():
            place = Place(variant, pretraining, levels, 1 if variant == "single" else counts[-1], density)
            if place in errors:
                needed = table(data, "sibling_density").get(place)
                how = f" (siblings pruned to {100 * needed.mean:.1f}%)" if needed else ""
                parts.append(f"{name} {mean_and_std(errors[place].statistic)}{how}")
        yield (
            f"Siblings pruned {pruned(levels)}, {pretrained(pretraining)}: test error in % at {percent(density)} of "
            f"the weights, {counts[-1]} siblings combined: {', '.join(parts)}."
        )
    between, *alone = (
        _signed(measured.against(errors, first, second, counts))
        for first, second in (("union", "intersection"), ("union", "single"), ("intersection", "single"))
    )
    yield (
        f"With {listing(counts)} siblings, mean over all densities, {pruned(levels)}: union − intersection {between} "
        f"points, union − one sibling's mask {alone[0]}, intersection − one sibling's mask {alone[1]} (paired by "
        "replicate)."
    )


def _near_chance(data: Data) -> Iterator[Claim]:
    """Siblings from initialization."""
    jaccard, *chances = (measured.after(data, metric, 0) for metric in ("jaccard", *CHANCES))
    shares = [
        Values({k: above / (1 - chance[k]) for k, above in (jaccard - chance).items() if chance[k] < 1})
        for chance in chances
    ]
    if not all(shares):
        return
    yield all_of(*(below(share, NEAR_CHANCE) for share in shares)).claim(
        PAPER,
        "without shared pretraining, siblings' masks are not much more similar than chance",
        f"mean over densities: Jaccard {jaccard:.3f}; {shares[0]:.1%} of the way from layerwise chance, "
        f"{chances[0]:.3f}, to identical masks, {shares[1]:.1%} from global chance, {chances[1]:.3f}",
    )


def _pretraining(data: Data) -> Iterator[Claim]:
    """The overlap after the longest pretraining against that after the shortest."""
    steps = sorted({step for _, step in overlaps(data, "jaccard")})
    if len(steps) < 2:
        return
    ends = steps[0], steps[-1]
    above = [[measured.after(data, "jaccard", k) - measured.after(data, of, k) for k in ends] for of in CHANCES]
    texts = [f"{of[0]:.3f} and {of[1]:.3f} above {name} chance" for of, name in zip(above, _CHANCES, strict=True)]
    yield all_of(*(lower(*of) for of in above)).claim(
        PAPER,
        "shared pretraining increases the overlap of siblings' masks significantly",
        f"Jaccard, mean over densities, {pretrained(steps[0])} and {pretrained(steps[-1])}: {', '.join(texts)}",
    )


def _equal_errors(errors: Places, margin: Limit, where: str) -> Iterator[Claim]:
    """Union against intersection, and both against one sibling's mask, at equal density; `errors` of one pruning."""
    counts = sorted({place.siblings for place in errors if place.variant in ("union", "intersection")})
    if not counts:
        return
    pairs = [("union", "intersection")]
    texts = {f"union and intersection perform very similarly, at equal density{where}": (pairs, counts)}
    pairs = [("union", "single"), ("intersection", "single")]
    texts[f"both match magnitude pruning of one sibling, at equal density{where}"] = (pairs, counts)
    if len(counts) > 1:
        texts[f"both match it even with the masks of {counts[-1]} siblings{where}"] = (pairs, counts[-1:])
    for text, (compared, of) in texts.items():
        differences = {pair: measured.against(errors, *pair, of) for pair in compared}
        here = [
            f"{first} − {_NAMES[second]}: {_signed(values)} points" for (first, second), values in differences.items()
        ]
        yield all_of(*(within(values, margin) for values in differences.values())).claim(PAPER, text, "; ".join(here))


def _signed(values: Values) -> str:
    """A difference of errors in points, with its sign."""
    if not values.finite:
        return "–"
    sign, std = "−" if values.mean < 0 else "+", values.statistic.std
    return f"{sign}{points(abs(values.mean))}" + ("" if std is None else f" ± {points(std)}")
