"""What became of Movva et al. 2021: how alike siblings' masks are, and whether combining them is worth it."""

from collections import Counter
from collections.abc import Mapping

from sparselt.experiments.siblings.claims import claims
from sparselt.experiments.siblings.figures import drawings
from sparselt.experiments.siblings.values import (
    CHANCES,
    Place,
    Values,
    against,
    densities,
    overlaps,
    pretrained,
    pruned,
    signed,
    table,
)
from sparselt.report.section import Data, Section, condition_value
from sparselt.report.summary import Statistic
from sparselt.report.verdicts import REPLICATES, spread
from sparselt.report.wording import count, listing, mean_and_std, percent


def findings(data: Data) -> list[str]:
    """Overlap at the ends of the pretraining, how far many masks agree, error at equal density, what is not shown."""
    texts = [_overlap_text(data, density) for density in densities(data)]
    errors, needed = table(data, "test_error"), table(data, "sibling_density")
    for pretraining in sorted({place.pretraining for place in errors}):
        for levels in sorted({place.levels for place in errors if place.pretraining == pretraining}):
            texts += _error_texts(errors, needed, pretraining, levels)
    steps = {step for _, step in overlaps(data, "jaccard")}
    if unseen := sorted(steps - {place.pretraining for place in errors}):
        texts.append(f"Masks after {listing(unseen)} steps of shared pretraining were compared, not retrained.")
    if empty := _empty_layers(data):
        texts.append(f"Combined masks left no weight in {listing(empty)}.")
    if lost := sum(Statistic.of(values.values()).diverged for values in errors.values()):
        texts.append(f"{count(lost, 'retraining')} diverged and {'is' if lost == 1 else 'are'} left out.")
    if max((len(values) for values in errors.values()), default=REPLICATES) < REPLICATES:
        texts.append("Fewer than three replicates: no finding is judged.")
    return [text for text in texts if text]


def _overlap_text(data: Data, density: float) -> str:
    """Overlap of the masks of one density after the shortest and the longest pretraining."""
    jaccard, layerwise, everywhere = (overlaps(data, metric) for metric in ("jaccard", *CHANCES))
    steps = sorted({step for of, step in jaccard if of == density})
    parts = [
        f"{_number(jaccard[density, step])} {pretrained(step)} (chance "
        f"{_number(layerwise.get((density, step), {}))} layerwise, {_number(everywhere.get((density, step), {}))} "
        "global)"
        for step in dict.fromkeys((steps[0], steps[-1]))
    ]
    text = (
        f"The masks of two siblings at {percent(density)} of the weights have a Jaccard of {', and of '.join(parts)}."
    )
    places = [p for p in table(data, "union") if p.variant == "siblings" and (p.density, p.levels) == (density, 1)]
    if places:
        most = max(places, key=lambda place: (place.siblings, place.pretraining))
        union, least, chance, least_chance = (
            _number(table(data, metric).get(most, {}))
            for metric in ("union", "intersection", "union_layerwise_chance", "intersection_layerwise_chance")
        )
        text += (
            f" The union of {most.siblings} of them, {pretrained(most.pretraining)}, holds {union} of all weights "
            f"(layerwise chance {chance}), the intersection {least} (chance {least_chance})."
        )
    return text


def _error_texts(
    errors: Mapping[Place, Values], needed: Mapping[Place, Values], pretraining: int, levels: int
) -> list[str]:
    """Errors at equal density with the most siblings, and what the differences come to over all conditions."""
    here = {p: v for p, v in errors.items() if (p.pretraining, p.levels) == (pretraining, levels)}
    counts = sorted({place.siblings for place in here if place.variant == "union"})
    if not counts:
        return []
    texts, most = [], counts[-1]
    for density in sorted({place.density for place in here}, reverse=True):
        parts = []
        for variant, name in _NAMES.items():
            siblings = 1 if variant == "single" else most
            place = Place(variant, pretraining, levels, siblings, density)
            if place in here:
                by = needed.get(place)
                of = f" (siblings pruned to {100 * Statistic.of(by.values()).mean:.1f}%)" if by else ""
                parts.append(f"{name} {mean_and_std(Statistic.of(here[place].values()))}{of}")
        texts.append(
            f"Siblings pruned {pruned(levels)}, {pretrained(pretraining)}: test error "
            f"in % at {percent(density)} of the weights, {most} siblings combined: {', '.join(parts)}."
        )
    between = against(here, "union", "intersection", counts)
    alone = [signed(against(here, how, "single", counts)) for how in ("union", "intersection")]
    texts.append(
        f"With {listing(counts)} siblings, mean over all densities, {pruned(levels)}: union − "
        f"intersection {signed(between)} points, union − one sibling's mask {alone[0]}, intersection − one sibling's "
        f"mask {alone[1]} (paired by replicate)."
    )
    return texts


def _empty_layers(data: Data) -> list[str]:
    """Each layer that some combined masks left empty, with their number."""
    rows = data.select(experiment="siblings", metric="layer_density", value=0.0)
    layers = Counter(condition_value(row.condition, "layer") for row in rows)
    return [f"{layer} ({count(times, 'mask')})" for layer, times in sorted(layers.items())]


def _number(values: Mapping[int, float]) -> str:
    return spread(values.values(), 3)


_NAMES = {
    "union": "union",
    "intersection": "intersection",
    "single": "the mask of one sibling",
    "random": "a random mask like the union",
}


SECTION = Section("Siblings: consistency and composability of masks", drawings, findings, claims)
