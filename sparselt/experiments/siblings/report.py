"""What became of Movva et al. 2021: how alike siblings' masks are, and whether combining them is worth it.

The four findings of the abstract; those on errors once for each way the siblings were pruned, one-shot or in several
prunings, and the fourth once for all numbers of siblings and once for the largest. Over replicates, each averaged over
the densities (and numbers of siblings) first; see `sparselt.report.verdicts`.

- near chance: the share of the way from layerwise chance to identity, against `NOT_MUCH_MORE`;
- pretraining: the Jaccard above layerwise chance, after the longest against after the shortest;
- equal errors: the difference, against ε, the standard deviation of the dense error, which is the papers' measure of
  what matches. Union and intersection perform similarly if they differ by less than ε either way; both match one
  sibling's mask if each errs more by less than ε (an error that is lower loses nothing, as everywhere else): agrees if
  both do, contradicted if one is.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

from sparselt.experiments.siblings import figures as measured
from sparselt.experiments.siblings.figures import CHANCES, Place, Places, overlaps, pretrained, pruned, retrained, table
from sparselt.report import verdicts
from sparselt.report.data import Claim, Data, Section, Verdict, listed
from sparselt.report.results import conditions
from sparselt.report.statistic import Values
from sparselt.report.verdicts import Judged, lower, lower_than
from sparselt.report.wording import count, listing, mean_and_std, percent, points

PAPER = "Movva et al. 2021"

NOT_MUCH_MORE = 0.1
"""Masks are *not much more similar than chance* when they are less than this share of the way from chance to identical
masks: (Jaccard − chance) / (1 − chance). A tenth is our choice; the paper gives no number in its abstract."""

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
        yield f"Masks after {listing(unseen)} steps of shared pretraining were compared, not retrained."
    empty = data.select(experiment="siblings", metric="layer_density", value=0.0)
    if layers := sorted(Counter(conditions(row.condition).get("layer") for row in empty).items()):
        texts = [f"{layer} ({count(times, 'mask')})" for layer, times in layers]
        yield f"Combined masks left no weight in {listing(texts)}."
    if lost := sum(values.statistic.diverged for values in errors.values()):
        yield f"{count(lost, 'retraining')} diverged and {'is' if lost == 1 else 'are'} left out."
    if max((len(values) for values in errors.values()), default=verdicts.REPLICATES) < verdicts.REPLICATES:
        yield "Fewer than three replicates: no finding is judged."


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Near chance without pretraining; more with it; equal errors of union, intersection and one sibling's mask."""
    yield from _near_chance(data)
    yield from _pretraining(data)
    for (pretraining, levels), errors in retrained(data).items():
        how = pruned(levels) if levels == 1 else f"{pruned(levels)}, ours"
        yield from _equal_errors(errors, measured.dense(data).epsilon or 0.0, f" ({how}, {pretrained(pretraining)})")


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
    jaccard, layerwise, everywhere = (measured.after(data, metric, 0) for metric in ("jaccard", *CHANCES))
    shares = {k: (above, 1 - layerwise[k]) for k, above in (jaccard - layerwise).items() if layerwise[k] < 1}
    share = Values({k: above / room for k, (above, room) in shares.items()})
    if not share:
        return
    judged = lower_than(share, NOT_MUCH_MORE)
    if judged.p is not None:
        limit = f"{judged.statistic}, below {100 * NOT_MUCH_MORE:g}% of the way, a limit of ours"
        above = lower(dict.fromkeys(share, 0.0), share)
        if above.verdict == "agrees":
            limit += f"; above chance all the same, p = {above.p:.2g}"
        judged = dataclasses.replace(judged, statistic=limit)
    yield judged.claim(
        PAPER,
        "without shared pretraining, siblings' masks are not much more similar than chance",
        f"mean over densities: Jaccard {jaccard:.3f}; chance {layerwise:.3f} layerwise, "
        f"{everywhere:.3f} global; {share:.1%} of the way from layerwise chance to identity",
    )


def _pretraining(data: Data) -> Iterator[Claim]:
    """The overlap after the longest pretraining against that after the shortest."""
    steps = sorted({step for _, step in overlaps(data, "jaccard")})
    if len(steps) < 2:
        return
    above = [measured.after(data, "jaccard", step) - measured.after(data, CHANCES[0], step) for step in steps]
    common = set.intersection(*map(set, above))
    rising = sum(all(before[k] < later[k] for before, later in itertools.pairwise(above)) for k in common)
    yield lower(above[0], above[-1]).claim(
        PAPER,
        "shared pretraining increases the overlap of siblings' masks significantly",
        f"Jaccard above layerwise chance, mean over densities: {above[0]:.3f} {pretrained(steps[0])}, "
        f"{above[-1]:.3f} {pretrained(steps[-1])}; rising from each of {count(len(steps), 'pretraining')} to the "
        f"next in {rising} of {count(len(common), 'replicate')}",
    )


def _equal_errors(errors: Places, margin: float, where: str) -> Iterator[Claim]:
    """Union against intersection, and both against one sibling's mask, at equal density; `errors` of one pruning."""
    counts = sorted({place.siblings for place in errors if place.variant in ("union", "intersection")})
    if not counts:
        return
    between = {"union − intersection": measured.against(errors, "union", "intersection", counts)}
    yield _equal(f"union and intersection perform very similarly, at equal density{where}", between, margin)
    texts = {f"both match magnitude pruning of one sibling, at equal density{where}": counts}
    if len(counts) > 1:
        texts[f"both match it even with the masks of {counts[-1]} siblings{where}"] = counts[-1:]
    for text, of in texts.items():
        both = {
            f"{how} − one sibling's mask": measured.against(errors, how, "single", of)
            for how in ("union", "intersection")
        }
        yield _equal(text, both, margin)


def _equal(text: str, differences: Mapping[str, Values], margin: float) -> Claim:
    """A claim that differences of errors, by their names, are nothing: one difference either way, several no higher."""
    here = "; ".join(f"{name}: {_signed(values)} points" for name, values in differences.items())
    judged = [_nothing(values, margin, either_way=len(differences) == 1) for values in differences.values()]
    worst = max(judged, key=lambda j: (j.p is None, j.p or 0.0, j.verdict != "agrees"))
    contradicted = any(j.verdict == "does not agree" for j in judged)
    verdict: Verdict = "does not agree" if contradicted else worst.verdict
    statistic = worst.statistic
    if worst.p is None and worst.n >= verdicts.REPLICATES:
        statistic = "the dense error has no standard deviation above zero: not judged"
    elif len(judged) > 1 and worst.p is not None:
        statistic = f"{statistic}; of the two tests, that with the larger p"
        for (name, values), test in zip(differences.items(), judged, strict=True):
            if test is not worst:
                statistic += verdicts.significant(values, dict.fromkeys(values, 0.0), name)
    return Judged(statistic, worst.n, worst.p, verdict).claim(PAPER, text, here)


def _nothing(values: Values, margin: float, either_way: bool) -> Judged:
    """Whether a difference of errors is below the margin: either way, or no higher."""
    zeros = dict.fromkeys(values, 0.0)
    if either_way or not margin > 0:
        return verdicts.equal(values, zeros, margin, verdicts.epsilon_text(margin))
    return verdicts.not_higher(values, zeros, margin)


def _signed(values: Values) -> str:
    """A difference of errors in points, with its sign."""
    if not values.finite:
        return "–"
    sign, std = "−" if values.mean < 0 else "+", values.statistic.std
    return f"{sign}{points(abs(values.mean))}" + ("" if std is None else f" ± {points(std)}")
