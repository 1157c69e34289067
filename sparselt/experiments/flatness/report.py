"""Flatness and pruning, perturbations early in training (Paul et al., the version of ICLR 2023; 2022, appendix D).

Flatness limits pruning: Spearman's rank correlation between the Hessian's largest eigenvalue and the largest fraction
that one level can prune, over the levels and rewind steps of a replicate, at least four networks, is below zero. Both
also follow the level: the partial correlation, at a given level, is below zero too. Robust early in training: at the
judged rewind step and scale 1 there is no barrier to the unperturbed solution. See `sparselt.report.rules`.
"""

import math
from collections.abc import Iterator

from sparselt.experiments.flatness import figures
from sparselt.experiments.flatness.figures import barriers_of, by_network, correlations, given_level, number_text
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.rules import (
    STABLE,
    Judged,
    above,
    all_of,
    below,
    dense_errors,
    epsilon,
    judged_step,
    lower,
    no_barrier,
)
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import count, every, listing, p_text, percent, verb

PAPER = "Paul et al. 2023 (Unmasking, ICLR)"


@listed
def findings(data: Data) -> Iterator[str]:
    """The correlations, with their n; what was robust to which perturbation."""
    for metric, limit in figures.FRACTIONS.items():
        rhos, pooled, number = correlations(data, metric)
        if number:
            within = f"{rhos:.2f} within replicates ({count(len(rhos), 'replicate')}: {_tested(below(rhos))})"
            yield (
                "Rank correlation of the largest eigenvalue of the Hessian with the largest fraction that one level "
                f"can prune with a training loss {limit}: "
                + (within if rhos else f"not judged, no replicate has {figures.NETWORKS} networks that differ")
                + f"; {number_text(pooled)} over {every(number, 'network')}"
                + (" together, which are not independent." if number > 1 else ".")
                + _at_a_level(given_level(data, metric))
            )
    tied = [value == 0 for value in by_network(data, "largest_prunable_fraction").values()]
    if any(tied):
        yield (
            f"At {sum(tied)} of {count(len(tied), 'network')} not even 5% can be pruned below the dense training loss "
            f"+ ε, so {verb(sum(tied), 'its fraction is 0', 'their fractions are tied at 0')}."
        )
    residuals = by_network(data, "eigenvalue_residual")
    values = {key: value for key, value in by_network(data, "eigenvalue_1").items() if value and key in residuals}
    worst = max((residuals[key] / abs(value) for key, value in values.items()), default=math.nan)
    if math.isfinite(worst):
        yield f"The largest eigenvalues are known within {100 * worst:.1g}% or better (residuals of Lanczos)."
    yield from _robust(data)


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Flatness limits pruning; training returns to the same mode."""
    rhos, pooled, number = correlations(data, "largest_prunable_fraction")
    if number:
        own, _, _ = correlations(data, "largest_own_fraction")
        given = given_level(data, "largest_prunable_fraction")
        yield all_of(below(rhos), below(given)).claim(
            PAPER,
            "the flatness of the error landscape at the end of training limits the fraction of weights that can be "
            "pruned at each level",
            f"Spearman's correlation of largest eigenvalue and largest prunable fraction within replicates "
            f"{rhos:.2f} (over {every(number, 'network')} {number_text(pooled)}), at a given level "
            f"{given:.2f}; with the solution's own loss as the limit {own:.2f}",
        )
    barriers = barriers_of(data, "perturbed")
    first, last = min((step for step, _ in barriers), default=0), judged_step(data, (step for step, _ in barriers))
    if (last, 1.0) in barriers:
        here = f"barrier at scale 1 {barriers[last, 1.0]:.1p} points at rewind step {last:,}"
        if first < last and (first, 1.0) in barriers:
            test = _tested(lower(barriers[last, 1.0], barriers[first, 1.0]))
            here += f", {barriers[first, 1.0]:.1p} at {first:,} ({test})"
        limit = epsilon(dense_errors(data).statistic)
        sentence = "SGD returns to the same mode despite strong perturbations early in training"
        yield no_barrier(barriers[last, 1.0], limit).claim(PAPER, sentence, here)
        for step in sorted(step for step, scale in barriers if scale == 1.0 and 0 < step < last):
            here = f"barrier at scale 1 {barriers[step, 1.0]:.1p} points at rewind step {step:,}"
            yield no_barrier(barriers[step, 1.0], limit).claim(PAPER, f"{sentence}, from an earlier step on", here)
    dense = barriers_of(data, "perturbed_dense")
    if (last, 1.0) in dense:
        yield above(dense[last, 1.0], epsilon(dense_errors(data).statistic)).claim(
            "Paul et al. 2022 (Unmasking), appendix D",
            "the dense network itself is not robust to a perturbation as large as its first pruning",
            f"barrier at scale 1 {dense[last, 1.0]:.1p} points at rewind step {last:,}",
        )


SECTION = Section("Flatness, and perturbations early in training", figures.drawings, findings, claims)


def _robust(data: Data) -> Iterator[str]:
    """Barriers at scale 1, of the level and of the dense network."""
    for variant in ("perturbed", "perturbed_dense"):
        barriers = {step: values for (step, scale), values in sorted(barriers_of(data, variant).items()) if scale == 1}
        columns = {"experiment": "flatness", "variant": variant, "metric": "relative_perturbation"}
        rows = data.select(**columns, condition={"scale": "1"})
        if not barriers:
            continue
        name = "a pruned network" if variant == "perturbed" else "the dense network"
        if variant == "perturbed" and rows:
            name = f"the network of level {rows[0].level} ({percent(rows[0].density)} of the weights)"
        sizes = [Statistic.of(row.value for row in rows if row.rewind_step == step).mean for step in barriers]
        heights = listing([f"{values:.1p} points at step {step:,}" for step, values in barriers.items()])
        yield (
            "Moved at the rewind step by as much as its next pruning moves it "
            f"({', '.join(f'{100 * size:.0f}%' for size in sizes)} of its norm), {name} is trained to a solution "
            f"behind a barrier of {heights} from the unperturbed one."
        )
        if variant == "perturbed_dense":
            last = max(barriers)
            near = barriers[last].mean < STABLE.value
            yield (
                "Appendix D of the paper finds the dense network not robust at the rewind step"
                + (f"; here it is, at step {last:,}" if near else "")
                + ". The dense training itself did not stop there; a training that starts there has no momentum, so "
                "part of a barrier may be the restart's."
            )


def _at_a_level(given: Values) -> str:
    """A sentence on the correlation that is left at a given level; empty where none is defined."""
    if not given:
        return ""
    return f" At a given level (partial correlation within replicates) it is {given:.2f} ({_tested(below(given))})."


def _tested(judged: Judged) -> str:
    return judged.statistic + ("" if judged.p is None else f", {p_text(judged.p)}")
