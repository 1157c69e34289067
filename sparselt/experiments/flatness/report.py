"""Flatness and pruning, perturbations early in training (Paul et al., the version of ICLR 2023; 2022, appendix D).

Flatness limits pruning: Spearman's rank correlation between the Hessian's largest eigenvalue and the largest fraction
that one level can prune, over the levels and rewind steps of a replicate, at least four networks; their mean is below
zero by a one-sided t test over replicates. Both also follow the level: what is left of the correlation at a given level
is the partial one, and where that is significantly above zero (two-sided t test) the finding cannot be seen. Robust
early in training: at the last rewind step and scale 1, the barrier to the unperturbed solution is below the 2 points of
Linear Mode Connectivity by a one-sided t test.
"""

import math
from collections.abc import Iterator

from sparselt.experiments.flatness import figures
from sparselt.experiments.flatness.figures import barriers_of, by_network, correlations, given_level, number_text
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.inference import Test, paired
from sparselt.report.statistic import NEAR_ZERO_BARRIER, Statistic, Values
from sparselt.report.verdicts import REPLICATES, SIGNIFICANT, TOO_FEW, lower, lower_than, only_if
from sparselt.report.wording import count, listing, percent

PAPER = "Paul et al. 2023 (Unmasking, ICLR)"


@listed
def findings(data: Data) -> Iterator[str]:
    """The correlations, with their n; what was robust to which perturbation."""
    for metric, limit in figures.FRACTIONS.items():
        rhos, pooled, number = correlations(data, metric)
        if number:
            judged = lower_than(rhos, 0.0)
            tested = judged.statistic if judged.p is None else f"{judged.statistic}, p = {judged.p:.2g}, below 0"
            within = f"{rhos:.2f} within replicates ({count(len(rhos), 'replicate')}: {tested})"
            yield (
                "Rank correlation of the largest eigenvalue of the Hessian with the largest fraction that one level "
                f"can prune with a training loss {limit}: "
                + (within if rhos else f"not judged, no replicate has {figures.NETWORKS} networks that differ")
                + f"; {number_text(pooled)} over all {count(number, 'network')} together, which are not independent."
                + _at_a_level(given_level(data, metric))
            )
    tied = [value == 0 for value in by_network(data, "largest_prunable_fraction").values()]
    if any(tied):
        yield (
            f"At {sum(tied)} of {len(tied)} networks not even 5% can be pruned below the dense training loss + ε, so "
            "their fractions are tied at 0."
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
        left = _left(given)
        reverse = left is not None and left.mean > 0 and left.p < SIGNIFICANT
        otherwise = "it is the levels': at a given one the reverse is significant"
        yield only_if(lower_than(rhos, 0.0), not reverse, otherwise).claim(
            PAPER,
            "the flatness of the error landscape at the end of training limits the fraction of weights that can be "
            "pruned at each level",
            f"Spearman's correlation of largest eigenvalue and largest prunable fraction within replicates "
            f"{rhos:.2f} (over all {number} networks {number_text(pooled)}), at a given level "
            f"{given:.2f}; with the solution's own loss as the limit {own:.2f}",
        )
    barriers = barriers_of(data, "perturbed")
    first, last = (of((step for step, _ in barriers), default=0) for of in (min, max))
    if (last, 1.0) in barriers:
        here = f"barrier at scale 1 {barriers[last, 1.0]:.1p} points at rewind step {last:,}"
        if first < last and (first, 1.0) in barriers:
            test = lower(barriers[last, 1.0], barriers[first, 1.0])
            p = "" if test.p is None else f", p = {test.p:.2g}"
            here += f", {barriers[first, 1.0]:.1p} at {first:,} ({test.statistic}{p})"
        yield lower_than(barriers[last, 1.0], NEAR_ZERO_BARRIER).claim(
            PAPER, "SGD returns to the same mode despite strong perturbations early in training", here
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
            near = barriers[last].mean < NEAR_ZERO_BARRIER
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
    left = _left(given)
    tested = TOO_FEW if left is None else f"{left.text}, p = {left.p:.2g}, two-sided"
    return f" At a given level (partial correlation within replicates) it is {given:.2f} ({tested})."


def _left(given: Values) -> Test | None:
    """Whether anything is left at a given level; None for too few replicates."""
    return paired(given, dict.fromkeys(given, 0.0)) if len(given) >= REPLICATES else None
