"""Flatness and pruning, perturbations early in training (Paul et al., the version of ICLR 2023; 2022, appendix D).

Flatness limits pruning: Spearman's rank correlation between the Hessian's largest eigenvalue and the largest fraction
that one level can prune, over the levels and rewind steps of a replicate, at least four networks; their mean is below
zero by a one-sided t test over replicates. Robust early in training: at the last rewind step and scale 1, the barrier
to the unperturbed solution is below the 2 points of Linear Mode Connectivity by a one-sided t test.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparselt.report.drawing import COLOURS, GREY, barrier_axis, ticks
from sparselt.report.section import Claim, Data, Drawing, Section, condition_value
from sparselt.report.summary import NEAR_ZERO_BARRIER, Statistic
from sparselt.report.verdicts import Values, lower, lower_than, spread
from sparselt.report.wording import count, listing, percent, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PAPER = "Paul et al. 2023 (Unmasking, ICLR)"
FRACTIONS = {
    "largest_prunable_fraction": "below the dense training loss + ε",
    "largest_own_fraction": "below its own loss + ε",
}
_NETWORKS = 4
"""The least number of networks that a replicate's rank correlation is taken over: three have only four values of it."""

_MARKERS = ("o", "s", "D", "v")


def drawings(data: Data) -> dict[str, Drawing]:
    """Curvature and the largest prunable fraction by level and against each other; barriers after perturbation."""
    found: dict[str, Drawing] = {}
    if _pairs(data, "largest_prunable_fraction"):
        found["flatness_by_level"] = _by_level(data)
        found["flatness_against_fraction"] = _against(data)
    if data.select(experiment="flatness", variant=("perturbed", "perturbed_dense"), metric="barrier"):
        found["perturbation"] = _perturbation(data)
    return found


def findings(data: Data) -> list[str]:
    """The correlations, with their n; what was robust to which perturbation."""
    texts = []
    for metric, limit in FRACTIONS.items():
        rhos, pooled, number = _correlations(data, metric)
        if number:
            judged = lower_than(rhos, 0.0)
            tested = judged.statistic if judged.p is None else f"{judged.statistic}, p = {judged.p:.2g}, below 0"
            within = f"{spread(rhos.values(), 2)} within replicates ({count(len(rhos), 'replicate')}: {tested})"
            texts.append(
                "Rank correlation of the largest eigenvalue of the Hessian with the largest fraction that one level "
                f"can prune with a training loss {limit}: "
                + (within if rhos else f"not judged, no replicate has {_NETWORKS} networks that differ")
                + f"; {_number(pooled)} over all {count(number, 'network')} together, which are not independent."
            )
    none = [row.value == 0 for row in data.select(experiment="flatness", metric="largest_prunable_fraction")]
    if any(none):
        texts.append(
            f"At {sum(none)} of {len(none)} networks not even 5% can be pruned below the dense training loss + ε, so "
            "their fractions are tied at 0."
        )
    return texts + _robust(data)


def claims(data: Data) -> list[Claim]:
    """Flatness limits pruning; training returns to the same mode."""
    found = []
    rhos, pooled, number = _correlations(data, "largest_prunable_fraction")
    if number:
        own, _, _ = _correlations(data, "largest_own_fraction")
        found.append(
            lower_than(rhos, 0.0).claim(
                PAPER,
                "the flatness of the error landscape at the end of training limits the fraction of weights that can be "
                "pruned at each level",
                f"Spearman's correlation of largest eigenvalue and largest prunable fraction within replicates "
                f"{spread(rhos.values(), 2)} (over all {number} networks {_number(pooled)}); with the solution's own "
                f"loss as the limit {spread(own.values(), 2)}",
            )
        )
    barriers = _barriers(data, "perturbed")
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
        barriers = _barriers(data, variant)
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
    if _barriers(data, "perturbed_dense"):
        texts.append(
            "Appendix D of the paper finds the dense network not robust at the rewind step. The dense training itself "
            "did not stop there; a training that starts there has no momentum, so part of that barrier may be the "
            "restart's."
        )
    return texts


def _pairs(data: Data, metric: str) -> dict[int, list[tuple[float, float]]]:
    """By replicate the (largest eigenvalue, fraction) of each network; the dense one, which all steps share, once."""
    curvature = _by_network(data, "eigenvalue_1")
    pairs: dict[int, list[tuple[float, float]]] = {}
    for key, fraction in _by_network(data, metric).items():
        if math.isfinite(curvature.get(key, math.nan)) and math.isfinite(fraction):
            pairs.setdefault(key[0], []).append((curvature[key], fraction))
    return pairs


def _by_network(data: Data, metric: str) -> dict[tuple[int, int, int | None], float]:
    """By replicate, level and rewind step (None for the dense network)."""
    rows = data.select(experiment="flatness", variant="imp", metric=metric)
    return {(row.replicate, row.level, row.rewind_step if row.level else None): row.value for row in rows}


def _correlations(data: Data, metric: str) -> tuple[Values, float, int]:
    """Spearman's rho in each replicate where it is defined, over all networks, and their number."""
    pairs = _pairs(data, metric)
    rhos = {replicate: _spearman(points) for replicate, points in pairs.items()}
    everything = [point for points in pairs.values() for point in points]
    return {k: rho for k, rho in rhos.items() if math.isfinite(rho)}, _spearman(everything), len(everything)


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """NaN for fewer than `_NETWORKS` pairs, or where one side does not vary."""
    from scipy import stats

    if len(pairs) < _NETWORKS or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return math.nan
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _barriers(data: Data, variant: str) -> dict[tuple[int, float], dict[int, float]]:
    """By rewind step and scale, the barrier of each replicate."""
    found: dict[tuple[int, float], dict[int, float]] = {}
    for row in data.select(experiment="flatness", variant=variant, metric="barrier"):
        scale = float(condition_value(row.condition, "scale") or math.nan)
        found.setdefault((row.rewind_step, scale), {})[row.replicate] = row.value
    return found


def _points(values: Mapping[int, float]) -> str:
    statistic = Statistic.of(values.values())
    return points(statistic.mean, 1) + (f" ± {points(statistic.std, 1)}" if statistic.std is not None else "")


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"


def _by_level(data: Data) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    metrics = ("eigenvalue_1", "trace", "largest_prunable_fraction")
    names = ("largest eigenvalue", "trace", "largest fraction\none level can prune, %")
    rows = data.select(experiment="flatness", variant="imp", metric=metrics)
    steps = sorted({row.rewind_step for row in rows})
    densities = {row.level: row.density for row in sorted(rows, key=lambda row: -row.replicate)}
    for axes, metric, name in zip(panels, metrics, names, strict=True):
        for place, step in enumerate(steps):
            groups = data.by("level", experiment="flatness", variant="imp", metric=metric, rewind_step=step)
            found = [(level, Statistic.of(values.values())) for (level,), values in sorted(groups.items())]
            scale = 100 if "fraction" in metric else 1
            axes.errorbar(
                [level + 0.06 * (place - (len(steps) - 1) / 2) for level, _ in found],
                [scale * statistic.mean for _, statistic in found],
                [scale * (statistic.std or 0) for _, statistic in found],
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                elinewidth=0.8,
                label=f"rewind {step:,}",
            )
        _log_if_wide(axes, [row.value for row in rows if row.metric == metric], "fraction" in metric)
        axes.set_ylabel(name)
    panels[0].legend(frameon=False, fontsize=9)
    levels = sorted(densities)
    panels[-1].set_xticks(levels, [f"{level}\n{percent(densities[level]).rstrip('%')}" for level in levels])
    panels[-1].set_xlabel("level, with weights remaining in %")
    caption = (
        "Above: the largest eigenvalue and the trace of the Hessian of the training loss in the live weights, batch "
        "norm in eval mode, on a subsample of the training images. Below: the largest fraction that the next level "
        "could prune with a training loss below the dense one + ε all along the path, in steps of 5%; 0 where there "
        "is none. Mean and standard deviation over replicates."
    )
    return Drawing(figure, "Flatness at the end of training, by level", caption)


def _log_if_wide(axes: "Axes", values: Sequence[float], is_fraction: bool) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if is_fraction:
        axes.set_ylim(-3, 100)
    elif finite and 0 < 10 * min(finite) < max(finite):
        axes.set_yscale("log")
        _round_ticks(axes.yaxis, finite)


def _round_ticks(axis: "Axis", values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten: matplotlib's own would run into each other."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    places = [digit * 10.0**power for power in range(low - 1, high + 1) for digit in digits]
    inside = [tick for tick in places if 0.7 * min(values) <= tick <= 1.4 * max(values)]
    axis.set_ticks(inside, [f"{tick:g}" for tick in inside])
    axis.set_ticks([], minor=True)


def _against(data: Data) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    curvature = _by_network(data, "eigenvalue_1")
    steps = sorted({key[2] for key in curvature if key[2] is not None})
    for axes, (metric, name) in zip(panels, FRACTIONS.items(), strict=True):
        fractions = _by_network(data, metric)
        for place, step in enumerate((None, *steps)):
            keys = [key for key in fractions if key[2] == step and math.isfinite(curvature.get(key, math.nan))]
            axes.plot(
                [curvature[key] for key in keys],
                [100 * fractions[key] for key in keys],
                _MARKERS[(place - 1) % len(_MARKERS)] if place else "x",
                color=COLOURS[(place - 1) % len(COLOURS)] if place else GREY,
                markersize=4,
                alpha=0.8,
                label="dense" if step is None else f"rewind {step:,}",
            )
        _, rho, number = _correlations(data, metric)
        axes.set_title(f"{name}\nρ = {_number(rho)}, n = {number}", fontsize=9.5)
        values = [value for value in curvature.values() if math.isfinite(value)]
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    axes = figure.subplots()
    measured = [place for variant in ("perturbed", "perturbed_dense") for place in _barriers(data, variant)]
    steps, scales = (sorted({place[axis] for place in measured}) for axis in (0, 1))
    largest = 0.0
    for variant, name in (("perturbed", ""), ("perturbed_dense", ", dense")):
        for place, step in enumerate(steps):
            groups = {scale: values for (at, scale), values in sorted(_barriers(data, variant).items()) if at == step}
            shift = 0.06 * (place - (len(steps) - 1) / 2)
            means = [100 * Statistic.of(values.values()).mean for values in groups.values()]
            colour = COLOURS[place % len(COLOURS)]
            for scale, values in groups.items():
                at = scales.index(scale) + shift
                axes.plot([at] * len(values), [100 * v for v in values.values()], "_", color=colour, alpha=0.7)
                largest = max([largest, *(100 * value for value in values.values() if math.isfinite(value))])
            axes.plot(
                [scales.index(scale) + shift for scale in groups],
                means,
                color=colour,
                marker=_MARKERS[place % len(_MARKERS)],
                markerfacecolor="none" if name else colour,
                linestyle="none" if name else "-",
                label=f"rewind {step:,}{name}",
            )
    barrier_axis(axes, largest)
    ticks(axes, {place: f"{scale:g}" for place, scale in enumerate(scales)})
    axes.set_xlim(-0.4, len(scales) - 0.6)
    axes.set_xlabel("norm of the perturbation, in norms of the next pruning's projection")
    axes.legend(frameon=False, fontsize=8.5, ncols=2)
    caption = (
        "After appendix D of Unmasking. The rewound network is moved in a random direction and trained; the barrier "
        "between its solution and the unperturbed one. Markers: means; short dashes: replicates; hollow: the dense "
        "network under the projection of level 1. Dashed line: the 2 points of Linear Mode Connectivity."
    )
    return Drawing(figure, "Perturbed at the rewind step", caption)
