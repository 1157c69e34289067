"""The measurements of `stability`, and its figures, after those of Frankle et al. 2019 (Stabilizing)."""

import math
from dataclasses import dataclass

from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Data, Drawing, once
from sparselt.report.statistic import Values
from sparselt.report.wording import level_name, percent

RATES = {"standard": "standard", "low": "low", "warmup": "warm-up"}
STABILITIES = {"pruning": "pruning", "order": "data order"}
_LOOKS = {"imp": draw.Look("IMP", draw.COLOURS[1]), "random": draw.Look("random mask", draw.GREY, "x", "--")}
_AXES = {"error": "test error, %", "angle": "angle, degrees", "l2_distance": "L2 distance"}


@dataclass(frozen=True)
class Place:
    """One level, rewind step and learning rate, at which IMP is compared with random masks."""

    data: Data
    level: int
    step: int
    rate: str = "standard"

    def of(self, metric: str, variant: str, kind: str = "order") -> Values:
        """`angle` (degrees) or `l2_distance` of `imp` or `random`, kind being a name of `STABILITIES`; or the test
        `error` of these or of `dense`."""
        level, step = (0, None) if variant == "dense" else (self.level, self.step)
        condition = {"rate": self.rate} | ({} if metric == "error" else {"stability": kind})
        place = {"experiment": "stability", "variant": variant, "rewind_step": step, "level": level}
        return self.data.values(metric="test_error" if metric == "error" else metric, condition=condition, **place)


def measured_levels(data: Data) -> list[int]:
    """Ascending."""
    return sorted({row.level for row in data.select(experiment="stability", metric="angle")})


def places(data: Data, level: int) -> list[Place]:
    """The rewind steps of a level at the standard learning rate."""
    condition = {"rate": "standard", "stability": "order"}
    rows = data.select(experiment="stability", metric="angle", level=level, condition=condition)
    return [Place(data, level, step) for step in sorted({row.rewind_step or 0 for row in rows})]


def rates(data: Data, level: int) -> list[Place]:
    """The learning rates measured at rewind step 0, at a level."""
    measured = data.by(".rate", experiment="stability", metric="angle", rewind_step=0)
    return [Place(data, level, 0, rate) for rate in RATES if rate in measured]


def density(data: Data, level: int) -> str:
    """Weights remaining, in words."""
    return percent(data.select(experiment="stability", metric="angle", level=level)[0].density)


def drawings(data: Data) -> dict[str, Drawing]:
    """Distances and error against the rewind step, for each level; the learning rates beside each other."""
    found: dict[str, Drawing] = {}
    levels = measured_levels(data)
    for level in levels:
        if compared := places(data, level):
            name = "stability_against_rewind" + (f"_level_{level}" if len(levels) > 1 else "")
            found[name] = _against_rewind(compared, density(data, level))
    if levels and len(rates(data, levels[-1])) > 1:
        found["stability_by_learning_rate"] = _by_rate(rates(data, levels[-1]), density(data, levels[-1]))
    if len(curves(data)) > 1:
        found["stability_curves"] = _curves(data)
    return found


@once
def curves(data: Data) -> dict[str, dict[int, Values]]:
    """By learning rate, the test errors of every level of IMP rewound to step 0; empty unless whole curves were run."""
    errors = data.by(".rate", "level", experiment="stability", variant="imp", metric="test_error", rewind_step=0)
    found = {rate: {level: errors[rate, level] for r, level in sorted(errors) if r == rate} for rate in RATES}
    return {rate: curve for rate, curve in found.items() if len(curve) > 1}


def _curves(data: Data) -> Drawing:
    rows = data.select(experiment="stability", variant="imp", metric="test_error")
    densities = {row.level: row.density for row in rows}
    figure, (axes,) = draw.canvas(3.6, 1)
    lines = [
        (draw.look(place, f"{RATES[rate]} rate"), {densities[level]: values for level, values in curve.items()})
        for place, (rate, curve) in enumerate(curves(data).items())
    ]
    ends = draw.bars(
        axes, [(look, points.items()) for look, points in lines], move=lambda density, side: density * 1.012**side
    )
    draw.error_axis(axes, [values.statistic for curve in curves(data).values() for values in curve.values()])
    draw.density_axis(axes, densities.values(), max(densities.values()) * 1.06, min(densities.values()) / 1.06)
    draw.label_ends(axes, ends)
    return Drawing(
        figure,
        "Test error against weights remaining, rewound to step 0, by learning rate",
        "After Stabilizing, which shows for ResNet-20 and VGG-19 that IMP succeeds from initialization at a low "
        "learning rate or with a warm-up. Mean and standard deviation over replicates.",
        Chart(
            lines,
            {density: level_name(level, density) for level, density in densities.items()},
        ),
    )


def _against_rewind(compared: list[Place], weights: str) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 6.2), layout="constrained")
    panels = figure.subplot_mosaic(
        [["angle pruning", "angle order"], ["l2_distance pruning", "l2_distance order"], ["error", "error"]]
    )
    for name, axes in panels.items():
        metric, _, kind = name.partition(" ")
        ends = _lines(axes, compared, metric, kind)
        _axis(axes, metric)
        if metric == "error":
            dense = compared[0].of("error", "dense")
            if dense.finite:
                axes.axhline(100 * dense.mean, color=draw.GREY, linewidth=0.8, zorder=1)
            if ends:
                axes.legend(frameon=False, fontsize=9, loc="lower left", ncols=2)
        if metric == "angle":
            axes.set_title(f"stability to {STABILITIES[kind]}", fontsize=10)
        draw.place_axis(axes, [f"{place.step:,}" for place in compared])
    panels["error"].set_xlabel("rewind step")
    return Drawing(
        figure,
        f"Stability and error against the rewind step, {weights} of the weights",
        "After the figures of Stabilizing. Left: the angle and L2 distance between the dense network, "
        "restricted to the mask, and the subnetwork, both trained on one data order. Right: between two copies of the "
        "subnetwork trained in different orders. Below: test error; grey line: the dense network. Mean and standard "
        "deviation over replicates. Lower is more stable; at 90° two solutions have nothing in common. A random mask "
        "has the ticket's layerwise densities.",
    )


def _by_rate(compared: list[Place], weights: str) -> Drawing:
    figure, panels = draw.canvas(2.9, 1, 3, width=7.2)
    for axes, kind in zip(panels, ("pruning", "order", ""), strict=True):
        ends = _lines(axes, compared, "angle" if kind else "error", kind, linestyle="none")
        if kind:
            axes.set_title(f"stability to {STABILITIES[kind]}", fontsize=9.5)
        else:
            dense = [100 * place.of("error", "dense").mean for place in compared]
            axes.plot(range(len(dense)), dense, "_", color=draw.GREY, markersize=16)
            ends += [("dense", draw.GREY, dense[-1])] if math.isfinite(dense[-1]) else []
        _axis(axes, "angle" if kind else "error")
        draw.place_axis(axes, [RATES[place.rate] for place in compared], margin=0.5)
    draw.label_ends(panels[-1], ends)
    return Drawing(
        figure,
        f"Learning rates at rewind step 0, {weights} of the weights",
        "After Stabilizing, which resets ResNet-20 and VGG-19 to initialization: the angles between dense network and "
        "subnetwork, and between two copies of it, by learning rate. Mean and standard deviation over replicates.",
    )


def _lines(axes: "draw.Axes", compared: list[Place], metric: str, kind: str, **how: str) -> list[draw.End]:
    """Draws IMP and the random masks at the places."""
    lines = [(look, enumerate([place.of(metric, v, kind) for place in compared])) for v, look in _LOOKS.items()]
    return draw.bars(axes, lines, 100 if metric == "error" else 1, lambda place, side: place + 0.12 * side, **how)


def _axis(axes: "draw.Axes", metric: str) -> None:
    axes.set_ylabel(_AXES[metric])
    axes.set_ylim(0, 100 if metric == "angle" else 1.06 * axes.get_ylim()[1])
    if metric == "angle":
        axes.set_yticks([0, 30, 60, 90])
        axes.axhline(90, color=draw.GREY, linewidth=0.6, linestyle=draw.DASHED)
