"""Rewinding to initialization with stable training (Maene et al. 2021, Why Lottery Tickets Win).

Of the batch sizes the smallest stands for unstable training, the largest for stable. A replicate's barrier or angle is
its mean over pairs of successive rounds down to the judged one. Errors are held against the condition's own dense
networks, whose standard deviation is ε. See `sparselt.report.rules`.
"""

from collections.abc import Iterator

from sparselt.experiments.rewind_to_init.figures import drawings
from sparselt.experiments.rewind_to_init.values import Condition, Conditions, measured, weights
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.rules import MEDIUM, STABLE, above, all_of, below, epsilon, judged_level, lower, no_barrier, within

PAPER = "Maene et al. 2021"


@listed
def findings(data: Data) -> Iterator[str]:
    """Sentences on each condition, and on the histograms."""
    run = measured(data)
    for c in run.plain + run.warm:
        warm = "" if c.warmup_steps is None else f", {c.name}"
        yield (
            f"Batch {c.batch_size:,}, lr {c.learning_rate}{warm}: dense error {c.errors('dense'):.2%}, "
            f"{c.errors():.2%} at {weights(c)} of the weights, rewound to step 0; of successive rounds "
            f"the mean barrier is {c.barrier():.2p} points and the mean angular distance {c.successive():.2f}."
        )
    if len(run.plain) > 1:
        first, last = run.extremes
        shape = [c.at("bimodality", c.last) for c in (first, last)]
        yield (
            f"Live weights of the sparsest round have a bimodality coefficient of {shape[0]:.2f} at {first.name} and "
            f"{shape[1]:.2f} at {last.name}: 0.33 is that of normal weights, above 0.56 suggests two humps."
        )
    for c, base in run.repelled:
        yield (
            f"With λ = {c.repulsion:g} at {base.name}, IMP errs on {c.errors():.2%} at {weights(c)} of the "
            f"weights, without on {base.errors('imp', c.last):.2%}; the mean angular distance of all pairs of "
            f"rounds, not of successive ones only, is {c.between():.2f} against {base.between():.2f} without."
        )


@listed
def claims(data: Data) -> Iterator[Claim]:
    """What stable training does to rewinding to initialization; the same regions; the repelling loss."""
    run = measured(data)
    if len(run.plain) > 1:
        yield from _stable(*run.extremes)
        yield from _regions(run)
    if len(run.warm) > 1:
        yield from _warm_up(run.warm[0], run.warm[-1])
    for condition, base in run.repelled:
        yield from (_repelling if condition.repulsion > 0 else _attracting)(condition, base)


SECTION = Section("Rewinding to initialization with stable training", drawings, findings, claims)


def _stable(small: Condition, large: Condition) -> Iterator[Claim]:
    yield lower(large.barrier(), small.barrier()).claim(
        PAPER,
        "a larger batch, a training that is stable, lowers the barriers between successive rounds of IMP rewound to "
        "initialization",
        f"mean barrier {large.barrier():.2p} points at {large.name}, {small.barrier():.2p} at {small.name}",
    )
    level = min(large.judged, small.judged)
    increases = [condition.increase(level) for condition in (large, small)]
    yield lower(*increases).claim(
        PAPER,
        "with it, less accuracy is lost by rewinding to initialization",
        f"at {weights(large, level)} of the weights {increases[0]:.2p} points above its own dense error at "
        f"{large.name}, {increases[1]:.2p} at {small.name}",
    )
    yield _rewound_entirely(large, "with it")
    shapes = [condition.at("bimodality", level) for condition in (small, large)]
    if all(shapes):
        yield lower(*shapes).claim(
            PAPER,
            "with it, the weights are nearer to two humps (between which the paper sees the pruning threshold)",
            f"bimodality coefficient {shapes[1]:.2f} at {large.name}, {shapes[0]:.2f} at {small.name} (a uniform "
            f"distribution has 0.56), at {weights(large, level)} of the weights",
        )
    copies = [condition.instability for condition in (small, large)]
    if all(copies):
        yield all_of(above(copies[0], STABLE), below(copies[1], STABLE)).claim(
            PAPER,
            "small batches are unstable to SGD noise at initialization, large ones are stable",
            f"instability of the dense network from step 0: {copies[0]:.1p} points at {small.name}, {copies[1]:.1p} at "
            f"{large.name}",
        )


def _warm_up(without: Condition, warm: Condition) -> Iterator[Claim]:
    yield lower(warm.barrier(), without.barrier()).claim(
        PAPER,
        "a learning rate warm-up lowers those barriers as well",
        f"mean barrier {warm.barrier():.2p} points with {warm.name}, {without.barrier():.2p} with {without.name}",
    )
    yield _rewound_entirely(warm, "with a warm-up")


def _rewound_entirely(condition: Condition, how: str) -> Claim:
    """Whether tickets rewound to initialization match the condition's own dense network."""
    level = condition.judged
    return within(condition.increase(level), epsilon(condition.dense)).claim(
        PAPER,
        f"{how}, networks can be entirely rewound to initialization: tickets match the dense network",
        f"at {weights(condition, level)} of the weights {condition.increase(level):.2p} points above the dense "
        f"{condition.errors('dense'):.2%}",
    )


def _regions(run: Conditions) -> Iterator[Claim]:
    small, large = run.extremes
    near, far, away = large.successive(), small.successive(), large.from_initialization()
    yield lower(near, far).claim(
        PAPER,
        "stable training returns to the same region round after round, unstable training to others",
        f"mean angular distance of successive rounds (1 is orthogonal) {near:.2f} at {large.name}, "
        f"{far:.2f} at {small.name}",
    )
    yield lower(near, away).claim(
        PAPER,
        "that region is not merely the neighbourhood of the initialization",
        f"at {large.name} successive rounds are {near:.2f} apart, and each {away:.2f} from the initialization",
    )
    medium = [level for level in large.levels[:-1] if MEDIUM[0] <= large.density(level) <= MEDIUM[1]]
    if medium:
        barrier = large.barrier(medium)
        yield no_barrier(barrier, epsilon(large.dense)).claim(
            PAPER,
            "at medium sparsity those solutions are linearly connected",
            f"mean barrier {barrier:.2p} points at {large.name}, from {weights(large, medium[0])} down to "
            f"{weights(large, medium[-1] + 1)} of the weights",
        )


def _repelling(condition: Condition, base: Condition) -> Iterator[Claim]:
    level, dense, margin = condition.judged, base.errors("dense"), epsilon(base.dense)
    plain, repelled = (c.errors("imp", level) for c in (base, condition))
    yield all_of(lower(plain, repelled), above(repelled - dense, margin)).claim(
        PAPER,
        "keeping a training away from the earlier solutions removes the tickets",
        f"λ = {condition.repulsion:g} at {base.name}: error {repelled:.2%} at {weights(condition, level)} of the "
        f"weights, {plain:.2%} without, dense {dense:.2%}",
    )
    both = [k for k in condition.levels if base.errors("reinit", k) and condition.errors("reinit", k)]
    if level := judged_level({k: condition.density(k) for k in both}):
        reinit, reinit_repelled = (c.errors("reinit", level) for c in (base, condition))
        yield within(reinit_repelled - reinit, margin).claim(
            PAPER,
            "the same loss leaves random reinitialization alone",
            f"error {reinit_repelled:.2%} with it, {reinit:.2%} without, at {weights(condition, level)} of the weights",
        )
        costs = reinit_repelled - reinit, condition.errors("imp", level) - base.errors("imp", level)
        yield lower(*costs).claim(
            PAPER,
            "the same loss costs random reinitialization less than it costs the tickets",
            f"{costs[0]:.2p} points against {costs[1]:.2p}",
        )


def _attracting(condition: Condition, base: Condition) -> Iterator[Claim]:
    level, dense = condition.judged, base.errors("dense")
    plain, attracted = (c.errors("imp", level) for c in (base, condition))
    yield all_of(lower(attracted, plain), within(attracted - dense, epsilon(base.dense))).claim(
        PAPER,
        "attracted to the earlier solutions, unstable training finds tickets at initialization",
        f"λ = {condition.repulsion:g} at {base.name}: error {attracted:.2%} at {weights(condition, level)} of the "
        f"weights, {plain:.2%} without, dense {dense:.2%}",
    )
