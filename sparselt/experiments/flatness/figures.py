"""The measurements of `flatness`, and its figures."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Data, Drawing, once
from sparselt.report.rules import STABLE
from sparselt.report.statistic import Values
from sparselt.report.wording import DASHES, percent

FRACTIONS = {
    "largest_prunable_fraction": "below the dense training loss + ε",
    "largest_own_fraction": "below its own loss + ε",
}
NETWORKS = 4
"""The least number of networks that a replicate's rank correlation is taken over: three have only four values of it."""

_ROUNDING = 1e-12
_Triple = tuple[float, float, float]
"""Largest eigenvalue, fraction and level of a network."""


@once
def by_network(data: Data, metric: str) -> Mapping[tuple[int, int, int | None], float]:
    """By replicate, level and rewind step; the dense network, which all steps share, once, with None for the step."""
    rows = data.select(experiment="flatness", variant="imp", metric=metric)
    return {(row.replicate, row.level, row.rewind_step if row.level else None): row.value for row in rows}


@once
def triples_of(data: Data, metric: str) -> Mapping[int, Sequence[_Triple]]:
    """By replicate its networks of which both eigenvalue and fraction are finite."""
    curvature = by_network(data, "eigenvalue_1")
    triples: dict[int, list[_Triple]] = defaultdict(list)
    for key, fraction in by_network(data, metric).items():
        triple = (curvature.get(key, math.nan), fraction, float(key[1]))
        if all(map(math.isfinite, triple)):
            triples[key[0]].append(triple)
    return triples


@once
def correlations(data: Data, metric: str) -> tuple[Values, float, int]:
    """Spearman's rho of eigenvalue and fraction in each replicate where it is defined, over all networks, and their
    number."""
    triples = triples_of(data, metric)
    everything = [triple for own in triples.values() for triple in own]
    rhos = Values({replicate: _spearman(own, 0, 1) for replicate, own in triples.items()})
    return rhos.finite, _spearman(everything, 0, 1), len(everything)


def given_level(data: Data, metric: str) -> Values:
    """Spearman's partial correlation of eigenvalue and fraction given the level, by replicate where it is defined."""
    found = Values()
    for replicate, own in triples_of(data, metric).items():
        direct, *through = (_spearman(own, *sides) for sides in ((0, 1), (0, 2), (1, 2)))
        left = math.prod(1 - rho**2 for rho in through)
        if left > _ROUNDING:
            found[replicate] = (direct - math.prod(through)) / math.sqrt(left)
    return found


def _spearman(triples: Sequence[_Triple], first: int, second: int) -> float:
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


def drawings(data: Data) -> dict[str, Drawing]:
    """Curvature and the largest prunable fraction by level and against each other; barriers after perturbation."""
    found: dict[str, Drawing] = {}
    if triples_of(data, "largest_prunable_fraction"):
        found["flatness_by_level"] = _by_level(data)
        found["flatness_against_fraction"] = _against(data)
    if barriers_of(data, "perturbed") or barriers_of(data, "perturbed_dense"):
        found["perturbation"] = _perturbation(data)
    return found


def _by_level(data: Data) -> Drawing:
    names = {"eigenvalue_1": "largest eigenvalue", "trace": "trace"}
    names["largest_prunable_fraction"] = "largest fraction\none level can prune, %"
    rows = data.select(experiment="flatness", variant="imp", metric=tuple(names))
    steps = sorted({row.rewind_step or 0 for row in rows})
    densities = {row.level: row.density for row in sorted(rows, key=lambda row: (row.level, -row.replicate))}
    figure, panels = draw.canvas(5.6, 3, sharex=True)
    for axes, (metric, name) in zip(panels, names.items(), strict=True):
        place = {"experiment": "flatness", "variant": "imp", "metric": metric}
        groups = [data.by("level", rewind_step=step, **place) for step in steps]
        lines = [(draw.look(k, f"rewind {steps[k]:,}"), sorted(groups[k].items())) for k in range(len(steps))]
        draw.bars(axes, lines, 100 if "fraction" in metric else 1)
        finite = [row.value for row in rows if row.metric == metric and math.isfinite(row.value)]
        if "fraction" in metric:
            axes.set_ylim(-3, 100)
        elif finite and 0 < 10 * min(finite) < max(finite):
            axes.set_yscale("log")
            _round_ticks(axes.yaxis, finite)
        axes.set_ylabel(name)
    panels[0].legend(frameon=False, fontsize=9)
    panels[-1].set_xticks([*densities], [f"{k}\n{percent(density).rstrip('%')}" for k, density in densities.items()])
    panels[-1].set_xlabel("level, with weights remaining in %")
    caption = (
        "Above: the largest eigenvalue and the trace of the Hessian of the training loss in the live weights, batch "
        "norm in eval mode, on a subsample of the training images. Below: the largest fraction that the next level "
        "could prune with a training loss below the dense one + ε all along the path, in steps of 5%; 0 where there "
        "is none. Mean and standard deviation over replicates."
    )
    return Drawing(figure, "Flatness at the end of training, by level", caption)


def _round_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten: matplotlib's own would run into each other."""
    low, high = min(values), max(values)
    few = math.ceil(math.log10(high)) - math.floor(math.log10(low)) <= 2
    draw.number_ticks(axis, draw.round_numbers(0.7 * low, 1.4 * high, (1, 2, 5) if few else (1,)))


def _against(data: Data) -> Drawing:
    figure, panels = draw.canvas(3.2, 1, 2, sharey=True)
    curvature = by_network(data, "eigenvalue_1")
    values = [value for value in curvature.values() if math.isfinite(value)]
    steps = sorted({key[2] for key in curvature if key[2] is not None})
    looks: dict[int | None, draw.Look] = {None: draw.Look("dense", draw.GREY, "x")}
    looks |= {step: draw.look(k, f"rewind {step:,}") for k, step in enumerate(steps)}
    for axes, (metric, name) in zip(panels, FRACTIONS.items(), strict=True):
        fractions = by_network(data, metric)
        for step, (label, colour, marker, *_) in looks.items():
            keys = [key for key in fractions if key[2] == step and math.isfinite(curvature.get(key, math.nan))]
            x, y = [curvature[key] for key in keys], [100 * fractions[key] for key in keys]
            axes.plot(x, y, marker, color=colour, markersize=4, alpha=0.8, label=label)
        _, rho, number = correlations(data, metric)
        axes.set_title(f"{name}\nρ = {number_text(rho)}, n = {number}", fontsize=9.5)
        if values and min(values) > 0:
            axes.set_xscale("log")
            _round_ticks(axes.xaxis, values)
        axes.set_xlabel("largest eigenvalue")
        axes.set_ylim(-3, 100)
    panels[0].set_ylabel("largest fraction\none level can prune, %")
    panels[-1].legend(frameon=False, fontsize=8.5)
    caption = (
        "Each marker is a network: a level of a replicate. Left: pruned as far as the training loss stays below the "
        "dense network's + ε, as the adaptive heuristic has it; right: below the network's own loss + ε. ρ: Spearman's "
        "rank correlation over all n of them, of which those of a replicate are not independent."
    )
    return Drawing(figure, "What one level can prune against the largest eigenvalue", caption)


def _perturbation(data: Data) -> Drawing:
    """Over the scales, with a curve for each rewind step; over the rewind steps where there is but one scale."""
    pruned, dense = (barriers_of(data, variant) for variant in ("perturbed", "perturbed_dense"))
    steps, scales = (sorted({place[axis] for place in (*pruned, *dense)}) for axis in (0, 1))
    if len(scales) > 1:
        places, name = scales, "norm of the perturbation, in norms of the next pruning's projection"
        lines = [
            (look, {scales.index(scale): values for (at, scale), values in of.items() if at == step})
            for number, step in enumerate(steps)
            for of, look in (
                (pruned, draw.look(number, f"rewind {step:,}")),
                (dense, draw.look(number, f"rewind {step:,}, dense", "none", hollow=True)),
            )
        ]
    else:
        places, name = steps, f"rewind step (perturbed by {scales[0]:g} × the next pruning's projection)"
        rows = data.select(experiment="flatness", variant="perturbed", metric="barrier")
        looks = (
            draw.Look(f"pruned to {percent(rows[0].density)}" if rows else "", draw.COLOURS[1]),
            draw.Look("dense", draw.GREY, "s", "-", hollow=True),
        )
        found = zip(looks, (pruned, dense), strict=True)
        lines = [(look, {steps.index(step): values for (step, _), values in of.items()}) for look, of in found]
    figure, (axes,) = draw.canvas(3.2)
    ends, highest = draw.dashes(axes, lines, 0.06, size=4.5)
    draw.barrier_axis(axes, highest)
    draw.place_axis(axes, [f"{place:,g}" for place in places], name, margin=0.4)
    draw.label_ends(axes, [end for end in ends if not end[0].endswith(", dense")])  # hollow, in the colour of its step
    caption = (
        "After appendix D of Unmasking. The rewound network is moved in a random direction and trained; the barrier "
        f"between its solution and the unperturbed one. {DASHES} Hollow markers: the dense network under the "
        "projection of level 1. Dashed line: the 2 points of Linear Mode Connectivity."
    )
    names = {at: f"{'norm' if len(scales) > 1 else 'step'} {place:,g}" for at, place in enumerate(places)}
    return Drawing(figure, "Perturbed at the rewind step", caption, Chart(lines, names, limit=STABLE.value))
