"""Stability to pruning and to data order (Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis).

Findings are judged at the sparsest level that was measured, on angles, which unlike L2 distances do not grow with the
weights; where IMP succeeds is the latest rewind step at which that level matches, or the last if none does. Stability
and accuracy improve together if angle and error are correlated within replicates, and from no rewind step to the next
one falls while the other rises, both significantly (one-sided paired t). Equality of angles has a margin of 5 degrees:
in the paper IMP and random masks differ by 0.3 degrees where IMP fails and by 52 to 60 where it succeeds (ResNet-20,
data order).
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sparselt.experiments.imp.levels import levels
from sparselt.experiments.stability.figures import (
    RATES,
    STABILITIES,
    Place,
    density,
    drawings,
    measured_levels,
    places,
    rates,
)
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.verdicts import equal, lower, only_if, rising_together
from sparselt.report.wording import listing

PAPER = "Frankle et al. 2019 (Stabilizing)"
_MARGIN = 5.0
_MARGIN_TEXT = "margin 5 degrees, ours: in the paper 0.3 where IMP fails, 52 to 60 where it succeeds"


@listed
def findings(data: Data) -> Iterator[str]:
    """Sentences on angles and errors, at the sparsest level."""
    for level in measured_levels(data)[-1:]:
        for place in places(data, level):
            pairs = [f"{name} {_against(place, 'angle', kind, '°')}" for kind, name in STABILITIES.items()]
            yield (
                f"Rewound to step {place.step:,}, with {density(data, level)} of the weights, angles of IMP's "
                f"subnetworks against those of random masks: to {', to '.join(pairs)}. They err on "
                f"{place.of('error', 'imp'):.2%} and {place.of('error', 'random'):.2%}."
            )
        others = [place for place in rates(data, level) if place.rate != "standard"]
        for place in others:
            yield (
                f"Rewound to step 0 at the {RATES[place.rate]} learning rate: data order "
                f"{_against(place, 'angle', 'order', '°')}, error {place.of('error', 'imp'):.2%} and "
                f"{place.of('error', 'random'):.2%}, dense {place.of('error', 'dense'):.2%}."
            )
        if not others:
            yield "Other learning rates than the standard one were not run."


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Stable where IMP succeeds; not at step 0; at step 0 with a low rate or warm-up; more so the later the step."""
    for level in measured_levels(data)[-1:]:
        compared = places(data, level)
        late = [place for place in compared if place.step > 0]
        if late:
            matching = {
                entry.rewind_step for entry in levels(data).select("imp") if entry.level == level and entry.matching
            }
            yield from _where_it_succeeds(([p for p in late if p.step in matching] or late)[-1])
        if compared and compared[0].step == 0:
            yield from _at_initialization(compared[0])
        for place in rates(data, level):
            if place.rate != "standard":
                yield _with_another_rate(place)
        if len(compared) > 1:
            yield from _with_accuracy(compared)


SECTION = Section("Stability of subnetworks to pruning and to data order", drawings, findings, claims)


def _where_it_succeeds(place: Place) -> Iterator[Claim]:
    for kind, name in STABILITIES.items():
        yield lower(place.of("angle", "imp", kind), place.of("angle", "random", kind)).claim(
            PAPER,
            f"rewound to an early step, IMP's subnetworks are more stable to {name} than random ones",
            f"{_apart(place, kind)} at step {place.step:,} and {density(place.data, place.level)} of the weights; "
            f"error {place.of('error', 'imp'):.2%} against {place.of('error', 'random'):.2%}, dense "
            f"{place.of('error', 'dense'):.2%}",
        )


def _at_initialization(place: Place) -> Iterator[Claim]:
    for kind, name in STABILITIES.items():
        imp, random = (place.of("angle", variant, kind) for variant in ("imp", "random"))
        yield equal(imp, random, _MARGIN, _MARGIN_TEXT).claim(
            PAPER,
            f"rewound to initialization at the standard learning rate, they are no more stable to {name} than random",
            f"{_apart(place, kind)} at {density(place.data, place.level)} of the weights",
        )


def _with_another_rate(place: Place) -> Claim:
    how = "a low learning rate" if place.rate == "low" else "a learning rate warm-up"
    return lower(place.of("angle", "imp"), place.of("angle", "random")).claim(
        PAPER,
        f"with {how}, IMP's subnetworks are more stable than random ones even at initialization",
        f"angle to data order {_against(place, 'angle', 'order', '°')} for random masks; error "
        f"{place.of('error', 'imp'):.2%}, dense {place.of('error', 'dense'):.2%}",
    )


def _with_accuracy(compared: Sequence[Place]) -> Iterator[Claim]:
    angles, errors = [place.of("angle", "imp") for place in compared], [p.of("error", "imp") for p in compared]
    texts = [f"{values:.1f}°" for values in angles]
    yield lower(angles[-1], angles[0]).claim(
        PAPER,
        "the later the step that IMP rewinds to, the more stable its subnetworks",
        f"angle to data order {texts[0]} at step {compared[0].step:,}, {texts[-1]} at step {compared[-1].step:,}",
    )
    points: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for angle, error in zip(angles, errors, strict=True):
        for replicate in sorted(angle.keys() & error.keys()):
            points[replicate].append((angle[replicate], error[replicate]))
    # Where one of angle and error falls significantly from a rewind step to the next, and the other rises.
    against = [
        f"from step {compared[before].step:,} to {compared[after].step:,}"
        for before, after in itertools.pairwise(range(len(compared)))
        if {lower(of[after], of[before]).verdict for of in (angles, errors)} == {"agrees", "does not agree"}
    ]
    otherwise = f"{listing(against)} one improves and the other worsens, both significantly"
    yield only_if(rising_together(points), not against, otherwise).claim(
        PAPER,
        "stability and accuracy improve together",
        "angle to data order and test error at rewind step "
        + "; ".join(f"{p.step:,}: {text}, {p.of('error', 'imp'):.2%}" for p, text in zip(compared, texts, strict=True)),
    )


def _apart(place: Place, kind: str) -> str:
    """Angle and L2 distance of IMP against random masks, in words."""
    return f"angle {_against(place, 'angle', kind, '°')}, L2 distance {_against(place, 'l2_distance', kind)},"


def _against(place: Place, metric: str, kind: str, unit: str = "") -> str:
    imp, random = (place.of(metric, variant, kind) for variant in ("imp", "random"))
    return f"{imp:.1f}{unit} against {random:.1f}{unit}"
