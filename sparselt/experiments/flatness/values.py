"""The measurements of `flatness` as its section asks for them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sparselt.report.data import Data, once
from sparselt.report.statistic import Values

FRACTIONS = {
    "largest_prunable_fraction": "below the dense training loss + ε",
    "largest_own_fraction": "below its own loss + ε",
}
NETWORKS = 4
"""The least number of networks that a replicate's rank correlation is taken over: three have only four values of it."""

_ROUNDING = 1e-12


@once
def by_network(data: Data, metric: str) -> Mapping[tuple[int, int, int | None], float]:
    """By replicate, level and rewind step; the dense network, which all steps share, once, with None for the step."""
    rows = data.select(experiment="flatness", variant="imp", metric=metric)
    return {(row.replicate, row.level, row.rewind_step if row.level else None): row.value for row in rows}


@once
def triples_of(data: Data, metric: str) -> Mapping[int, Sequence[tuple[float, float, float]]]:
    """By replicate the (largest eigenvalue, fraction, level) of each network of which both are finite."""
    curvature = by_network(data, "eigenvalue_1")
    triples: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for key, fraction in by_network(data, metric).items():
        triple = (curvature.get(key, math.nan), fraction, float(key[1]))
        if all(map(math.isfinite, triple)):
            triples[key[0]].append(triple)
    return triples


def correlations(data: Data, metric: str) -> tuple[Values, float, int]:
    """Spearman's rho of eigenvalue and fraction in each replicate where it is defined, over all networks, and their
    number."""
    triples = triples_of(data, metric)
    rhos = {replicate: _spearman(own, 0, 1) for replicate, own in triples.items()}
    everything = [triple for own in triples.values() for triple in own]
    return {k: rho for k, rho in rhos.items() if math.isfinite(rho)}, _spearman(everything, 0, 1), len(everything)


def given_level(data: Data, metric: str) -> Values:
    """Spearman's partial correlation of eigenvalue and fraction given the level, by replicate where it is defined."""
    found = {}
    for replicate, own in triples_of(data, metric).items():
        direct, *through = (_spearman(own, *sides) for sides in ((0, 1), (0, 2), (1, 2)))
        left = math.prod(1 - rho**2 for rho in through)
        if left > _ROUNDING:
            found[replicate] = (direct - math.prod(through)) / math.sqrt(left)
    return found


def _spearman(triples: Sequence[tuple[float, float, float]], first: int, second: int) -> float:
    """Of two sides; NaN for fewer than `NETWORKS` networks, or where one side does not vary."""
    from scipy import stats

    sides = [[triple[side] for triple in triples] for side in (first, second)]
    if len(triples) < NETWORKS or any(len(set(side)) < 2 for side in sides):
        return math.nan
    return float(stats.spearmanr(*sides).statistic)


def barriers_of(data: Data, variant: str) -> Mapping[tuple[int, float], Values]:
    """By rewind step and scale, the barrier of each replicate to `perturbed` or `perturbed_dense`."""
    found = data.by("rewind_step", ".scale", experiment="flatness", variant=variant, metric="barrier")
    return {(step, float(scale or math.nan)): values for (step, scale), values in found.items()}


def number_text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"
