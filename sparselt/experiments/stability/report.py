"""Stability to pruning and to data order (Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis).

Findings are judged on angles, which unlike L2 distances do not grow with the weights: where IMP succeeds at the judged
rewind step, and at step 0. How, see `sparselt.report.rules`.
"""

import itertools
from collections.abc import Iterator, Sequence

from sparselt.experiments.stability.figures import (
    RATES,
    STABILITIES,
    Place,
    curves,
    density,
    drawings,
    measured_levels,
    places,
    rates,
)
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.rules import AS_STABLE, all_of, below, judged_level, judged_step, lower, rising_together
from sparselt.report.statistic import averaged

PAPER = "Frankle et al. 2019 (Stabilizing)"


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
    """Stable at the judged step; not at step 0; at step 0 with a low rate or warm-up; more so the later the step."""
    angles = data.select(experiment="stability", metric="angle")
    level = judged_level({row.level: row.density for row in angles})
    if not level:
        return
    compared = places(data, level)
    step = judged_step(data, (place.step for place in compared))
    for place in compared:
        if place.step == step > 0:
            yield from _where_it_succeeds(place)
    if compared and compared[0].step == 0:
        yield from _at_initialization(compared[0])
    for place in rates(data, level):
        if place.rate != "standard":
            yield _with_another_rate(place)
    if len(compared) > 1:
        yield from _with_accuracy(compared)
    yield from _over_all_densities(data)


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
        if place.data.wins_at_init:
            yield lower(imp, random).claim(
                PAPER,
                f"where IMP succeeds from initialization, its subnetworks are more stable to {name} than random ones",
                f"{_apart(place, kind)} at {density(place.data, place.level)} of the weights",
            )
            continue
        yield below(random - imp, AS_STABLE).claim(
            PAPER,
            f"rewound to initialization at the standard learning rate, they are no more stable to {name} than random",
            f"{_apart(place, kind)} at {density(place.data, place.level)} of the weights",
        )


def _over_all_densities(data: Data) -> Iterator[Claim]:
    """Compares rates by the error of IMP rewound to step 0 above the same rate's dense network, over all levels."""
    costs = {}
    for rate, curve in curves(data).items():
        dense = data.values(experiment="stability", variant="dense", metric="test_error", condition={"rate": rate})
        costs[rate] = averaged(list(curve.values())) - dense
    for rate, cost in costs.items():
        if rate != "standard" and "standard" in costs:
            how = "at a low learning rate" if rate == "low" else "with a learning rate warm-up"
            yield lower(cost, costs["standard"]).claim(
                PAPER,
                f"{how}, IMP from initialization loses less accuracy over all densities than at the standard rate",
                f"mean error {cost:.2p} points above the dense network's, {costs['standard']:.2p} at the standard rate",
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
    texts = [f"{place.step:,}: {values:.1f}°" for place, values in zip(compared, angles, strict=True)]
    yield all_of(*(lower(after, before) for before, after in itertools.pairwise(angles))).claim(
        PAPER,
        "the later the step that IMP rewinds to, the more stable its subnetworks",
        f"angle to data order at rewind step {', '.join(texts)}",
    )
    yield rising_together(angles, errors).claim(
        PAPER,
        "stability and accuracy improve together",
        "angle to data order and test error at rewind step "
        + "; ".join(f"{text}, {error:.2%}" for text, error in zip(texts, errors, strict=True)),
    )


def _apart(place: Place, kind: str) -> str:
    """Angle and L2 distance of IMP against random masks, in words."""
    return f"angle {_against(place, 'angle', kind, '°')}, L2 distance {_against(place, 'l2_distance', kind)},"


def _against(place: Place, metric: str, kind: str, unit: str = "") -> str:
    imp, random = (place.of(metric, variant, kind) for variant in ("imp", "random"))
    return f"{imp:.1f}{unit} against {random:.1f}{unit}"
