"""The measurements of siblings as their figures, findings and claims need them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparselt.report.section import Data, condition_value
from sparselt.report.summary import Statistic, Summary
from sparselt.report.wording import count, points

CHANCES = ("jaccard_layerwise_chance", "jaccard_chance")
"""The chances of a Jaccard, see `sparselt.analysis.overlap`."""


class Place(NamedTuple):
    """What a group of rows shares but their replicate."""

    variant: str
    pretraining: int
    levels: int
    siblings: int
    density: float


Values = Mapping[int, float]
"""A value by replicate."""


def table(data: Data, metric: str) -> dict[Place, dict[int, float]]:
    """Values of a metric by place; what has no `siblings` in its condition, as the dense network, is left out."""
    found = {}
    names = ("variant", "rewind_step", "level", "condition")
    for (variant, step, level, condition), values in data.by(*names, experiment="siblings", metric=metric).items():
        siblings, density = (condition_value(condition, name) for name in ("siblings", "density"))
        if siblings is not None and density is not None:
            found[Place(variant, step, level, int(siblings), float(density))] = values
    return found


def compared(data: Data) -> int:
    """How many siblings were compared after every pretraining; the least if there are several such numbers."""
    places = [place for place in table(data, "jaccard") if place.levels == 1]
    steps = {place.pretraining for place in places}
    by_count = {k: {place.pretraining for place in places if place.siblings == k} for k in {p.siblings for p in places}}
    return min(by_count, key=lambda k: (len(steps - by_count[k]), k), default=0)


def overlaps(data: Data, metric: str) -> dict[tuple[float, int], dict[int, float]]:
    """A metric of one-shot masks by density and pretraining, all of equally many siblings."""
    siblings = compared(data)
    found = table(data, metric).items()
    return {(p.density, p.pretraining): v for p, v in found if p.levels == 1 and p.siblings == siblings}


def densities(data: Data) -> list[float]:
    return sorted({density for density, _ in overlaps(data, "jaccard")}, reverse=True)


def after(data: Data, metric: str, step: int) -> dict[int, float]:
    """A metric after one pretraining, by replicate, averaged over densities."""
    return averaged([values for (_, of), values in overlaps(data, metric).items() if of == step])


def against(errors: Mapping[Place, Values], first: str, second: str, counts: Iterable[int]) -> dict[int, float]:
    """error(first) − error(second) by replicate, averaged over the densities and these numbers of siblings."""
    differences = []
    for place, values in errors.items():
        if place.variant == first and place.siblings in counts:
            other = place._replace(variant=second, siblings=1 if second == "single" else place.siblings)
            differences.append(minus(values, errors.get(other, {})))
    return averaged(differences)


def averaged(conditions: Sequence[Values]) -> dict[int, float]:
    """Mean over conditions by replicate; a replicate that lacks one, or diverged in one, is left out."""
    common = set.intersection(*(set(values) for values in conditions)) if conditions else set()
    means = {k: math.fsum(values[k] for values in conditions) / len(conditions) for k in sorted(common)}
    return {k: mean for k, mean in means.items() if math.isfinite(mean)}


def minus(first: Values, second: Values) -> dict[int, float]:
    return {k: first[k] - second[k] for k in first if k in second}


def dense(data: Data) -> Summary:
    """The dense network alone: all its runs where `imp` made more than the siblings' own."""
    runs = data.by("experiment", variant="dense", metric="test_error", level=0, condition="")
    found = Statistic.of(max((runs.get((name,), {}) for name in ("imp", "siblings")), key=len).values())
    return Summary(found if found.n else None, None if found.diverged else found.std, ())


def pruned(levels: int) -> str:
    """How siblings were pruned."""
    return "one-shot" if levels == 1 else f"in {levels} prunings"


def pretrained(steps: int) -> str:
    """Of which pretraining, as the end of a sentence."""
    return f"after {count(steps, 'step')} of shared pretraining" if steps else "without shared pretraining"


def signed(values: Values) -> str:
    """A difference of errors in points, with its sign."""
    statistic = Statistic.of(values.values())
    if not statistic.n:
        return "–"
    sign = "−" if statistic.mean < 0 else "+"
    text = f"{sign}{points(abs(statistic.mean))}"
    return text if statistic.std is None else f"{text} ± {points(statistic.std)}"
