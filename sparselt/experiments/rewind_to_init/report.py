"""Rewinding to initialization with stable training (Maene et al. 2021, Why Lottery Tickets Win).

Of the batch sizes the smallest stands for unstable training, the largest for stable. A replicate's barrier or angle is
its mean over pairs of successive rounds. Errors are judged at the sparsest round, against the condition's own dense
networks; where they are said to be equal, the margin is ε, the standard deviation of the dense error. Tickets are found
or removed where the error falls or rises and the mean is, or is not, at most the dense mean + ε. Medium sparsity is 10
to 50% of the weights; connected there means below the 2 points of Linear Mode Connectivity.
"""

from collections.abc import Iterator

from sparselt.experiments.rewind_to_init.figures import drawings
from sparselt.experiments.rewind_to_init.values import Condition, Rounds
from sparselt.report.section import Claim, Data, Section
from sparselt.report.summary import NEAR_ZERO_BARRIER, Statistic
from sparselt.report.verdicts import Values, epsilon_text, equal, lower, lower_than, not_higher, only_if, spread
from sparselt.report.wording import percent

PAPER = "Maene et al. 2021"
_MEDIUM = (0.1, 0.5)


def findings(data: Data) -> list[str]:
    """Sentences on each condition, and on the histograms."""
    rounds = Rounds(data)
    texts = [_condition(rounds, condition) for condition in rounds.plain + rounds.warm]
    if len(rounds.plain) > 1:
        first, last = rounds.plain[0], rounds.plain[-1]
        shape = [spread(rounds.at("bimodality", c, rounds.last(c)).values(), 2) for c in (first, last)]
        texts.append(
            f"Live weights of the sparsest round have a bimodality coefficient of {shape[0]} at {first.name} and "
            f"{shape[1]} at {last.name}: 0.33 is that of normal weights, above 0.56 suggests two humps."
        )
    texts += [
        f"With λ = {condition.repulsion:g} at {condition.base.name}, IMP errs on "
        f"{_error(rounds, 'imp', condition, rounds.last(condition))}% at {_density(rounds, condition)} of the "
        f"weights, without on {_error(rounds, 'imp', condition.base, rounds.last(condition))}%; the mean angular "
        f"distance of its rounds is {spread(rounds.between(condition).values(), 2)} against "
        f"{spread(rounds.between(condition.base).values(), 2)} without."
        for condition in rounds.repelled
    ]
    return texts


def claims(data: Data) -> list[Claim]:
    """What stable training does to rewinding to initialization; the same regions; the repelling loss."""
    rounds = Rounds(data)
    found: list[Claim] = []
    if len(rounds.plain) > 1:
        found += [*_stable(rounds, rounds.plain[0], rounds.plain[-1]), *_regions(rounds)]
    if len(rounds.warm) > 1:
        found += _warm_up(rounds, rounds.warm[0], rounds.warm[-1])
    for condition in rounds.repelled:
        found += _repelling(rounds, condition) if condition.repulsion > 0 else _attracting(rounds, condition)
    return found


SECTION = Section("Rewinding to initialization with stable training", drawings, findings, claims)


def _stable(rounds: Rounds, small: Condition, large: Condition) -> Iterator[Claim]:
    barriers = [rounds.barrier(condition) for condition in (large, small)]
    yield lower(*barriers).claim(
        PAPER,
        "a larger batch, a training that is stable, connects the successive rounds of IMP rewound to initialization",
        f"mean barrier {_points(barriers[0])} points at {large.name}, {_points(barriers[1])} at {small.name}",
    )
    level = min(rounds.last(large), rounds.last(small))
    increases = [rounds.increase(condition, level) for condition in (large, small)]
    yield lower(*increases).claim(
        PAPER,
        "with it, less accuracy is lost by rewinding to initialization",
        f"at {_density(rounds, large)} of the weights {_points(increases[0])} points above its own dense error at "
        f"{large.name}, {_points(increases[1])} at {small.name}",
    )
    yield from _rewound_entirely(rounds, large, level, "with it")


def _warm_up(rounds: Rounds, without: Condition, warm: Condition) -> Iterator[Claim]:
    barriers = [rounds.barrier(condition) for condition in (warm, without)]
    yield lower(*barriers).claim(
        PAPER,
        "a learning rate warm-up lowers those barriers as well",
        f"mean barrier {_points(barriers[0])} points with {warm.name}, {_points(barriers[1])} with {without.name}; "
        f"at {_density(rounds, warm)} of the weights error {_error(rounds, 'imp', warm, rounds.last(warm))}% against "
        f"{_error(rounds, 'imp', without, rounds.last(without))}%",
    )
    yield from _rewound_entirely(rounds, warm, rounds.last(warm), "with a warm-up")


def _rewound_entirely(rounds: Rounds, condition: Condition, level: int, how: str) -> Iterator[Claim]:
    """Whether tickets rewound to initialization match the condition's own dense network."""
    epsilon = Statistic.of(rounds.dense(condition).values()).std
    if epsilon is None:
        return
    yield not_higher(rounds.errors("imp", condition, level), rounds.dense(condition), epsilon).claim(
        PAPER,
        f"{how}, networks can be entirely rewound to initialization: tickets match the dense network",
        f"at {percent(rounds.density(condition, level))} of the weights {_points(rounds.increase(condition, level))} "
        f"points above the dense {_error(rounds, 'dense', condition, 0)}%; limit ε = {100 * epsilon:.2f} points; mean "
        f"error within ε at {_matching(rounds, condition, epsilon)}",
    )


def _regions(rounds: Rounds) -> Iterator[Claim]:
    small, large = rounds.plain[0], rounds.plain[-1]
    between = [rounds.successive(condition) for condition in (large, small)]
    yield lower(*between).claim(
        PAPER,
        "stable training returns to the same region round after round, unstable training to others",
        f"mean angular distance of successive rounds (1 is orthogonal) {spread(between[0].values(), 2)} at "
        f"{large.name}, {spread(between[1].values(), 2)} at {small.name}",
    )
    away = rounds.from_initialization(large)
    yield lower(between[0], away).claim(
        PAPER,
        "that region is not merely the neighbourhood of the initialization",
        f"at {large.name} successive rounds are {spread(between[0].values(), 2)} apart, and each "
        f"{spread(away.values(), 2)} from the initialization",
    )
    medium = [level for level in rounds.levels(large)[:-1] if _MEDIUM[0] <= rounds.density(large, level) <= _MEDIUM[1]]
    if medium:
        barrier = rounds.barrier(large, medium)
        yield lower_than(barrier, NEAR_ZERO_BARRIER).claim(
            PAPER,
            "at medium sparsity those solutions are linearly connected",
            f"mean barrier {_points(barrier)} points at {large.name}, from {percent(rounds.density(large, medium[0]))} "
            f"down to {percent(rounds.density(large, medium[-1]))} of the weights",
        )


def _repelling(rounds: Rounds, condition: Condition) -> Iterator[Claim]:
    base, level = condition.base, rounds.last(condition)
    plain, repelled = (rounds.errors("imp", c, level) for c in (base, condition))
    reinit, reinit_repelled = (rounds.errors("reinit", c, level) for c in (base, condition))
    limit = _limit(rounds, base)
    judged = lower(plain, repelled)
    if limit is not None:
        judged = only_if(judged, Statistic.of(repelled.values()).mean > limit, "but on average they match all the same")
    yield judged.claim(
        PAPER,
        "keeping a training away from the earlier solutions removes the tickets",
        f"λ = {condition.repulsion:g} at {base.name}: error {_points(repelled)}% at {_density(rounds, condition)} of "
        f"the weights, {_points(plain)}% without{_limit_text(limit)}; reinitialized {_points(reinit_repelled)}% with "
        f"the loss, {_points(reinit)}% without",
    )
    epsilon = Statistic.of(rounds.dense(base).values()).std
    if reinit and reinit_repelled and epsilon is not None:
        yield equal(reinit_repelled, reinit, epsilon, epsilon_text(epsilon)).claim(
            PAPER,
            "the same loss leaves random reinitialization alone",
            f"error {_points(reinit_repelled)}% with it, {_points(reinit)}% without",
        )
        costs = [
            {k: after[k] - before[k] for k in after.keys() & before.keys()}
            for before, after in ((reinit, reinit_repelled), (plain, repelled))
        ]
        yield lower(*costs).claim(
            PAPER,
            "the same loss costs random reinitialization less than it costs the tickets",
            f"{_points(costs[0])} points against {_points(costs[1])}",
        )


def _attracting(rounds: Rounds, condition: Condition) -> Iterator[Claim]:
    base, level = condition.base, rounds.last(condition)
    plain, attracted = (rounds.errors("imp", c, level) for c in (base, condition))
    limit = _limit(rounds, base)
    judged = lower(attracted, plain)
    if limit is not None:
        judged = only_if(judged, Statistic.of(attracted.values()).mean <= limit, "but on average they do not match")
    yield judged.claim(
        PAPER,
        "attracted to the earlier solutions, unstable training finds tickets at initialization",
        f"λ = {condition.repulsion:g} at {base.name}: error {_points(attracted)}% at {_density(rounds, condition)} of "
        f"the weights, {_points(plain)}% without{_limit_text(limit)}",
    )


def _limit(rounds: Rounds, condition: Condition) -> float | None:
    """The largest error that matches the condition's own dense networks."""
    dense = Statistic.of(rounds.dense(condition).values())
    return None if dense.std is None else dense.mean + dense.std


def _limit_text(limit: float | None) -> str:
    return "" if limit is None else f", matching up to {100 * limit:.2f}%"


def _condition(rounds: Rounds, condition: Condition) -> str:
    level = rounds.last(condition)
    return (
        f"{condition.title}: dense error {_error(rounds, 'dense', condition, 0)}%, "
        f"{_error(rounds, 'imp', condition, level)}% at {_density(rounds, condition)} of the weights, rewound to step "
        f"0; mean barrier of successive rounds {_points(rounds.barrier(condition))} points, mean angular distance "
        f"{spread(rounds.successive(condition).values(), 2)}."
    )


def _matching(rounds: Rounds, condition: Condition, epsilon: float) -> str:
    """The densities at which the mean error is within ε of the dense mean."""
    matching = [
        percent(rounds.density(condition, level))
        for level in rounds.levels(condition)[1:]
        if Statistic.of(rounds.increase(condition, level).values()).mean <= epsilon
    ]
    return ", ".join(matching) or "no density"


def _points(values: Values) -> str:
    return spread(values.values(), 2, 100)


def _error(rounds: Rounds, variant: str, condition: Condition, level: int) -> str:
    return _points(rounds.errors(variant, condition, level))


def _density(rounds: Rounds, condition: Condition) -> str:
    return percent(rounds.density(condition, rounds.last(condition)))
