"""Flatness and pruning, perturbations early in training (Paul et al., the version of ICLR 2023; 2022, appendix D).

Flatness limits pruning: Spearman's rank correlation between the Hessian's largest eigenvalue and the largest fraction
that one level can prune, over the levels and rewind steps of a replicate, at least four networks; their mean is below
zero by a one-sided t test over replicates. Both also follow the level: what is left of the correlation at a given level
is the partial one, and where that is significantly above zero (two-sided t test) the finding cannot be seen. Robust
early in training: at the last rewind step and scale 1, the barrier to the unperturbed solution is below the 2 points of
Linear Mode Connectivity by a one-sided t test.
"""

import math
from collections.abc import Mapping

from sparselt.experiments.flatness.figures import drawings
from sparselt.experiments.flatness.values import (
    FRACTIONS,
    NETWORKS,
    barriers_of,
    by_network,
    correlations,
    given_level,
    number_text,
)
from sparselt.report.inference import Test, paired
from sparselt.report.section import Claim, Data, Section
from sparselt.report.summary import NEAR_ZERO_BARRIER, Statistic
from sparselt.report.verdicts import REPLICATES, SIGNIFICANT, TOO_FEW, Values, lower, lower_than, only_if, spread
from sparselt.report.wording import count, listing, percent, points

PAPER = "Paul et al. 2023 (Unmasking, ICLR)"


def findings(data: Data) -> list[str]:
    """The correlations, with their n; what was robust to which perturbation."""
    texts = []
    for metric, limit in FRACTIONS.items():
        rhos, pooled, number = correlations(data, metric)
        if number:
            judged = lower_than(rhos, 0.0)
            tested = judged.statistic if judged.p is None else f"{judged.statistic}, p = {judged.p:.2g}, below 0"
            within = f"{spread(rhos.values(), 2)} within replicates ({count(len(rhos), 'replicate')}: {tested})"
            texts.append(
                "Rank correlation of the largest eigenvalue of the Hessian with the largest fraction that one level "
                f"can prune with a training loss {limit}: "
                + (within if rhos else f"not judged, no replicate has {NETWORKS} networks that differ")
                + f"; {number_text(pooled)} over all {count(number, 'network')} together, which are not independent."
                + _at_a_level(data, metric)
            )
    none = [value == 0 for value in by_network(data, "largest_prunable_fraction").values()]
    if any(none):
        texts.append(
            f"At {sum(none)} of {len(none)} networks not even 5% can be pruned below the dense training loss + ε, so "
            "their fractions are tied at 0."
        )
    return texts + _accuracy(data) + _robust(data)


def claims(data: Data) -> list[Claim]:
    """Flatness limits pruning; training returns to the same mode."""
    found = []
    rhos, pooled, number = correlations(data, "largest_prunable_fraction")
    if number:
        own, _, _ = correlations(data, "largest_own_fraction")
        given = given_level(data, "largest_prunable_fraction")
        left = _left(given)
        reverse = left is not None and left.mean > 0 and left.p < SIGNIFICANT
        otherwise = "it is the levels': at a given one the reverse is significant"
        judged = only_if(lower_than(rhos, 0.0), not reverse, otherwise)
        found.append(
            judged.claim(
                PAPER,
                "the flatness of the error landscape at the end of training limits the fraction of weights that can be "
                "pruned at each level",
                f"Spearman's correlation of largest eigenvalue and largest prunable fraction within replicates "
                f"{spread(rhos.values(), 2)} (over all {number} networks {number_text(pooled)}), at a given level "
                f"{spread(given.values(), 2)}; with the solution's own loss as the limit {spread(own.values(), 2)}",
            )
        )
    barriers = barriers_of(data, "perturbed")
    steps = sorted({step for step, _ in barriers})
    if steps and (steps[-1], 1.0) in barriers:
        last = barriers[steps[-1], 1.0]
        here = f"barrier at scale 1 {_points(last)} points at rewind step {steps[-1]:,}"
        if steps[0] < steps[-1] and (steps[0], 1.0) in barriers:
            first = barriers[steps[0], 1.0]
            test = lower(last, first)
            here += f", {_points(first)} at {steps[0]:,} ({test.statistic}" + (
                ")" if test.p is None else f", p = {test.p:.2g})"
            )
        found.append(
            lower_than(last, NEAR_ZERO_BARRIER).claim(
                PAPER, "SGD returns to the same mode despite strong perturbations early in training", here
            )
        )
    return found


SECTION = Section("Flatness, and perturbations early in training", drawings, findings, claims)


def _robust(data: Data) -> list[str]:
    """Barriers at scale 1, of the level and of the dense network."""
    texts = []
    for variant, name in (("perturbed", "a pruned network"), ("perturbed_dense", "the dense network")):
        barriers = barriers_of(data, variant)
        rows = data.select(experiment="flatness", variant=variant, metric="relative_perturbation", condition="scale=1")
        steps = sorted({step for step, scale in barriers if scale == 1})
        if not steps:
            continue
        if variant == "perturbed":
            name = f"the network of level {rows[0].level} ({percent(rows[0].density)} of the weights)" if rows else name
        size = ", ".join(
            f"{100 * Statistic.of(row.value for row in rows if row.rewind_step == step).mean:.0f}%" for step in steps
        )
        heights = listing([f"{_points(barriers[step, 1.0])} points at step {step:,}" for step in steps])
        texts.append(
            f"Moved at the rewind step by as much as its next pruning moves it ({size} of its norm), {name} is trained "
            f"to a solution behind a barrier of {heights} from the unperturbed one."
        )
    dense = {step: values for (step, scale), values in barriers_of(data, "perturbed_dense").items() if scale == 1}
    if dense:
        text = "Appendix D of the paper finds the dense network not robust at the rewind step"
        if Statistic.of(dense[max(dense)].values()).mean < NEAR_ZERO_BARRIER:
            text += f"; here it is, at step {max(dense):,}"
        texts.append(
            f"{text}. The dense training itself did not stop there; a training that starts there has no momentum, so "
            "part of a barrier may be the restart's."
        )
    return texts


def _at_a_level(data: Data, metric: str) -> str:
    """A sentence on the correlation that is left at a given level; empty where none is defined."""
    given = given_level(data, metric)
    if not given:
        return ""
    left = _left(given)
    tested = TOO_FEW if left is None else f"{left.text}, p = {left.p:.2g}, two-sided"
    return f" At a given level (partial correlation within replicates) it is {spread(given.values(), 2)} ({tested})."


def _left(given: Values) -> Test | None:
    """Whether anything is left at a given level; None for too few replicates."""
    return paired(given, dict.fromkeys(given, 0.0)) if len(given) >= REPLICATES else None


def _accuracy(data: Data) -> list[str]:
    """How well the eigenvalues are known."""
    residuals = by_network(data, "eigenvalue_residual")
    shares = [
        residuals[key] / abs(value)
        for key, value in by_network(data, "eigenvalue_1").items()
        if residuals.get(key) is not None and value
    ]
    if not shares or not math.isfinite(max(shares)):
        return []
    return [f"The largest eigenvalues are known within {100 * max(shares):.1g}% or better (residuals of Lanczos)."]


def _points(values: Mapping[int, float]) -> str:
    statistic = Statistic.of(values.values())
    return points(statistic.mean, 1) + (f" ± {points(statistic.std, 1)}" if statistic.std is not None else "")
