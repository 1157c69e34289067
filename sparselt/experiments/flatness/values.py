"""The measurements of `flatness` as its section asks for them."""

import math
from collections.abc import Sequence

from sparselt.report.section import Data, condition_value
from sparselt.report.verdicts import Values

FRACTIONS = {
    "largest_prunable_fraction": "below the dense training loss + ε",
    "largest_own_fraction": "below its own loss + ε",
}
NETWORKS = 4
"""The least number of networks that a replicate's rank correlation is taken over: three have only four values of it."""

_ROUNDING = 1e-12
PERTURBED = ("perturbed", "perturbed_dense")


def pairs_of(data: Data, metric: str) -> dict[int, list[tuple[float, float]]]:
    """By replicate the (largest eigenvalue, fraction) of each network; the dense one, which all steps share, once."""
    curvature = by_network(data, "eigenvalue_1")
    pairs: dict[int, list[tuple[float, float]]] = {}
    for key, fraction in by_network(data, metric).items():
        if math.isfinite(curvature.get(key, math.nan)) and math.isfinite(fraction):
            pairs.setdefault(key[0], []).append((curvature[key], fraction))
    return pairs


def by_network(data: Data, metric: str) -> dict[tuple[int, int, int | None], float]:
    """By replicate, level and rewind step (None for the dense network)."""
    rows = data.select(experiment="flatness", variant="imp", metric=metric)
    return {(row.replicate, row.level, row.rewind_step if row.level else None): row.value for row in rows}


def correlations(data: Data, metric: str) -> tuple[Values, float, int]:
    """Spearman's rho in each replicate where it is defined, over all networks, and their number."""
    pairs = pairs_of(data, metric)
    rhos = {replicate: _spearman(points) for replicate, points in pairs.items()}
    everything = [point for points in pairs.values() for point in points]
    return {k: rho for k, rho in rhos.items() if math.isfinite(rho)}, _spearman(everything), len(everything)


def given_level(data: Data, metric: str) -> Values:
    """Spearman's partial correlation of eigenvalue and fraction given the level, by replicate where it is defined."""
    curvature = by_network(data, "eigenvalue_1")
    gathered: dict[int, list[tuple[float, float, float]]] = {}
    for key, fraction in by_network(data, metric).items():
        triple = (curvature.get(key, math.nan), fraction, float(key[1]))
        if all(map(math.isfinite, triple)):
            gathered.setdefault(key[0], []).append(triple)
    found = {}
    for replicate, triples in gathered.items():
        of, fractions, levels = ([triple[side] for triple in triples] for side in range(3))
        direct, *through = (
            _spearman([*zip(*sides, strict=True)]) for sides in ((of, fractions), (of, levels), (fractions, levels))
        )
        left = math.prod(1 - rho**2 for rho in through)
        if left > _ROUNDING:
            found[replicate] = (direct - math.prod(through)) / math.sqrt(left)
    return found


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """NaN for fewer than `NETWORKS` pairs, or where one side does not vary."""
    from scipy import stats

    if len(pairs) < NETWORKS or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return math.nan
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def barriers_of(data: Data, variant: str) -> dict[tuple[int, float], dict[int, float]]:
    """By rewind step and scale, the barrier of each replicate."""
    found: dict[tuple[int, float], dict[int, float]] = {}
    for row in data.select(experiment="flatness", variant=variant, metric="barrier"):
        scale = float(condition_value(row.condition, "scale") or math.nan)
        found.setdefault((row.rewind_step, scale), {})[row.replicate] = row.value
    return found


def number_text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"
