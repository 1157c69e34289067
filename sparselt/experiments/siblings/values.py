"""The measurements of siblings as their figures, findings and claims need them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparselt.report import statistic
from sparselt.report.data import Data, once
from sparselt.report.results import conditions
from sparselt.report.statistic import Statistic, Values, finite, minus
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


Places = Mapping[Place, Values]
"""Values of a metric by place."""


@once
def table(data: Data, metric: str) -> Places:
    """A metric by place; rows whose condition names no siblings, as the dense network's, are left out."""
    found: dict[Place, dict[int, float]] = defaultdict(dict)
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


def counts_of(errors: Places) -> list[int]:
    """The numbers of siblings that were combined, ascending."""
    return sorted({place.siblings for place in errors if place.variant in ("union", "intersection")})


@once
def compared(data: Data) -> int:
    """How many siblings were compared after every pretraining; the least if there are several such numbers."""
    places = [place for place in table(data, "jaccard") if place.levels == 1]
    steps = {place.pretraining for place in places}
    by_count = {k: {place.pretraining for place in places if place.siblings == k} for k in {p.siblings for p in places}}
    return min(by_count, key=lambda k: (len(steps - by_count[k]), k), default=0)


@once
def overlaps(data: Data, metric: str) -> Mapping[tuple[float, int], Values]:
    """A metric of one-shot masks by density and pretraining, all of equally many siblings."""
    siblings, found = compared(data), table(data, metric).items()
    return {(p.density, p.pretraining): v for p, v in found if p.levels == 1 and p.siblings == siblings}


def after(data: Data, metric: str, step: int) -> Values:
    """A metric after one pretraining, by replicate, averaged over densities."""
    return averaged([values for (_, of), values in overlaps(data, metric).items() if of == step])


def against(errors: Places, first: str, second: str, counts: Iterable[int]) -> Values:
    """error(first) − error(second) by replicate, averaged over the densities and these numbers of siblings."""
    differences = []
    for place, values in errors.items():
        if place.variant == first and place.siblings in counts:
            other = place._replace(variant=second, siblings=1 if second == "single" else place.siblings)
            differences.append(minus(values, errors.get(other, {})))
    return averaged(differences)


def averaged(groups: Sequence[Values]) -> dict[int, float]:
    """Mean over conditions by replicate; a replicate that lacks one, or diverged in one, is left out."""
    return finite(statistic.averaged(groups))


def dense(data: Data) -> Statistic:
    """Test errors of the dense network: of all its runs where `imp` made more than the siblings' own."""
    runs = data.by("experiment", variant="dense", metric="test_error", level=0, condition={})
    return Statistic.of(max((runs.get(name, {}) for name in ("imp", "siblings")), key=len).values())


def pruned(levels: int) -> str:
    """How siblings were pruned."""
    return "one-shot" if levels == 1 else f"in {levels} prunings"


def pretrained(steps: int) -> str:
    """Of which pretraining, as the end of a sentence."""
    return f"after {count(steps, 'step')} of shared pretraining" if steps else "without shared pretraining"


def signed(values: Values) -> str:
    """A difference of errors in points, with its sign."""
    of = Statistic.of(values.values())
    if not of.n:
        return "–"
    sign = "−" if of.mean < 0 else "+"
    text = f"{sign}{points(abs(of.mean))}"
    return text if of.std is None else f"{text} ± {points(of.std)}"
