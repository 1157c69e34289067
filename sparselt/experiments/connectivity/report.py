"""Linear connectivity of levels and of copies (Paul et al. 2022, Figs. 2 and 6; Frankle et al. 2020).

Connected if and only if both match (Paul et al., level 0 apart, appendix D), over pairs of successive levels at all
rewind steps. Piecewise connected: the chain from level 1 to the judged one has no barrier on average rewound to the
judged step, and has one rewound to step 0. Between levels that match: the mean over the pairs that do at the judged
step. Becomes stable: two copies that part at the judged step are, and copies that part at the first one are not; their
instability is the largest error between them minus the mean of their own. See `sparselt.report.rules`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sparselt.experiments.imp.lead import LEAD
from sparselt.experiments.imp.levels import agreements, levels
from sparselt.report import drawing as draw
from sparselt.report.data import Chart, Claim, Data, Drawing, Section, listed, once
from sparselt.report.rules import (
    STABLE,
    Limit,
    above,
    all_of,
    below,
    coincidence,
    epsilon,
    judged_level,
    judged_step,
    no_barrier,
)
from sparselt.report.statistic import Values, averaged
from sparselt.report.wording import DASHES, count, mean_and_std, of_pairs, percent, points, verb

PAUL = "Paul et al. 2022 (Unmasking)"
LMC = "Frankle et al. 2020 (Linear Mode Connectivity)"
PAIRS = {"between": "levels"}
COPIES = {"between": "copies"}
_LOOKS = {
    "dense": draw.Look("dense", draw.GREY, "x", "-"),
    "imp": draw.Look("IMP", draw.COLOURS[1], "o", "-"),
    "random": draw.Look("random mask", draw.COLOURS[0], "s", ":"),
}


def drawings(data: Data) -> dict[str, Drawing]:
    """The heat map over all pairs of levels, and instability against the rewind step."""
    found = {}
    if _pairs(data, "max_error"):
        epsilon = levels(data).epsilon
        known = levels(data).threshold is not None
        matching = "at the matching error, dense mean + ε, or below" if known else "at the smallest"
        darkest = f"{points(STABLE.value, 0)} points"
        if epsilon:
            darkest = (
                f"ε = {points(epsilon)} points, the rise that Unmasking's Def. A.1 allows a line without a barrier"
            )
        found["heat_map"] = Drawing(
            _heat_map(data),
            "Between all pairs of levels",
            "After Fig. 2 of Unmasking, right: the last rewind step, means over replicates. The largest error on the "
            f"straight line between the solutions of two levels; darkest {matching}. And the error barrier on that "
            f"line; darkest up to {darkest}. Logarithmic colours; white: not measured, or diverged.",
            rows="connectivity, metrics max_error and barrier, condition between=levels",
        )
    if any(of.finite for curve in _instability(data).values() for of in curve.values()):
        figure, chart = _instability_figure(data)
        found["instability"] = Drawing(
            figure,
            "Instability to SGD noise",
            "Two copies of a network start from the same step and differ in data order and augmentation. Instability: "
            "the largest error on the straight line between their solutions, minus the mean of their own errors. "
            f"{DASHES} Dashed line: the {points(STABLE.value, 0)} points below "
            "which Linear Mode Connectivity (Frankle et al. 2020) speaks of stability.",
            chart,
            "connectivity, metric instability, condition between=copies",
        )
    return found


@listed
def findings(data: Data) -> Iterator[str]:
    """How far levels stay connected, and which copies end in one place."""
    yield from _far_pairs(data)
    for (variant, level), curve in _instability(data).items():
        name, density = "the dense network", _density(data, level)
        if variant != "dense" and density is not None:
            what = "IMP's subnetwork" if variant == "imp" else "a random mask"
            name = f"{what} at {percent(density)} of the weights"
        texts = [f"{mean_and_std(of.statistic, 1)} from step {step:,}" for step, of in curve.items()]
        yield f"Instability of {name}, in points: {', '.join(texts)}."


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Connected exactly where both match; barriers at step 0 and not later; copies that part later are stable."""
    yield from _coincidence(data)
    yield from _piecewise(data)
    densities = {level: _density(data, level) or 1.0 for _, level in _instability(data)}
    for (variant, level), curve in _instability(data).items():
        first, late = min(curve), judged_step(data, curve)
        if data.wins_at_init and first == 0 and (variant, level) in (("dense", 0), ("imp", judged_level(densities))):
            name = "the dense network" if variant == "dense" else "the subnetwork that IMP finds"
            yield below(curve[0], STABLE).claim(
                LMC,
                f"{name} is stable to SGD noise from initialization on",
                f"instability {curve[0]:.1p} points from step 0"
                + (f", at {percent(densities[level])} of the weights" if level else ""),
            )
            continue
        if (variant, level) not in (("dense", 0), ("imp", judged_level(densities))) or first >= late:
            continue
        what = "the dense network" if variant == "dense" else "the subnetwork that IMP finds"
        yield all_of(above(curve[first], STABLE), below(curve[late], STABLE)).claim(
            LMC,
            f"{what} becomes stable to SGD noise when its copies part later in training",
            f"instability {curve[first]:.1p} points from step {first:,}, {curve[late]:.1p} from step {late:,}"
            + (f", at {percent(densities[level])} of the weights" if level else ""),
        )


SECTION = Section(
    "Connectivity of distant levels, and of copies in another data order", drawings, findings, claims, lead=LEAD
)


def _coincidence(data: Data) -> Iterator[Claim]:
    found = agreements(data)
    if not found:
        return
    tables = [[len(pairs) for pairs in agreement.cells] for agreement in found]
    both, separated, connected, neither = (sum(cells) for cells in zip(*tables, strict=True))
    matching, failing = both + separated, connected + neither
    beside = sum(agreement.agreeing for agreement in agreements(data, STABLE.value))
    replicates = data.values(experiment="connectivity", variant="imp", metric="barrier")
    yield coincidence(tables, len(replicates)).claim(
        PAUL,
        "at higher sparsities (here: level 0 apart) successive levels are linearly connected without a barrier if and "
        "only if both match (Fig. 2)",
        f"both or neither at {both + neither} of {count(matching + failing, 'pair')}, "
        f"{count(len(replicates), 'replicate')}: "
        f"{of_pairs(both, matching, 'without a barrier', neither, failing, 'with one')}; both or neither at {beside} "
        f"if barriers up to the {STABLE.text} of Linear Mode Connectivity count as none",
    )


def _piecewise(data: Data) -> Iterator[Claim]:
    lines = data.by("rewind_step", experiment="connectivity", variant="imp", condition={}, metric="barrier")
    densities = {row.level: row.density for row in data.select(variant="imp", condition={})}
    step, last, limit = judged_step(data, lines), judged_level(densities), epsilon(levels(data).dense)
    early, late = (_mean_barrier(data, of, lambda level: 0 < level < last) for of in (0, step))
    if data.wins_at_init and early:
        yield no_barrier(early, limit).claim(
            PAUL,
            "the solutions of successive levels are piecewise linearly connected where IMP rewinds to a matching step "
            "(here: initialization; Fig. 2, left)",
            f"mean barrier {early:.1p} points rewound to step 0, from level 1 to {last}",
        )
    elif step > 0 and early and late:
        yield all_of(no_barrier(late, limit), above(early, limit)).claim(
            PAUL,
            "the solutions of successive levels are piecewise linearly connected where IMP rewinds to a matching step, "
            "and are not where it rewinds to initialization (Fig. 2, left)",
            f"mean barrier {late:.1p} points rewound to step {step:,}, {early:.1p} to step 0, from level 1 to {last}",
        )
    together = [agreement for agreement in agreements(data) if agreement.rewind_step == step]
    matching = {n for agreement in together for n in agreement.matching_connected + agreement.matching_separated}
    if matching:
        values = _mean_barrier(data, step, lambda level: level in matching)
        yield no_barrier(values, limit).claim(
            PAUL,
            "between successive levels that both match there is no error barrier (Fig. 2)",
            f"mean barrier {values:.2p} points over {count(len(matching), 'pair')} that "
            f"{verb(len(matching), 'matches', 'match')}, rewound to step {step:,}",
        )
    yield from _pairwise(data, limit)


def _pairwise(data: Data, limit: Limit) -> Iterator[Claim]:
    """All pairs of levels that match, level 0 apart; successive ones are among them."""
    lines = data.by("level", "to_level", experiment="connectivity", variant="imp", condition=PAIRS, metric="barrier")
    rows = data.select(experiment="connectivity", condition=PAIRS, metric="barrier")
    steps = {row.rewind_step or 0 for row in rows}
    matching = {entry.level for step in steps for entry in levels(data).select("imp", step) if entry.matching}
    found = [values for pair, values in lines.items() if 0 < pair[0] != pair[1] and matching.issuperset(pair)]
    if found:
        mean = averaged(found)
        yield no_barrier(mean, limit).claim(
            PAUL,
            "the solutions of all levels that match are pairwise linearly connected (Fig. 2, right)",
            f"mean barrier {mean:.2p} points over {count(len(found), 'pair')}, rewound to step {max(steps):,}",
        )


def _far_pairs(data: Data) -> Iterator[str]:
    barriers, summary = _pairs(data, "barrier"), levels(data)
    if not barriers:
        return
    near = sum(value < STABLE.value for value in barriers.values())
    farthest = max(barriers, key=lambda pair: pair[1] - pair[0])
    worst = max(barriers, key=lambda pair: barriers[pair])
    within = ""
    if summary.epsilon is not None:
        within = f", {sum(value < summary.epsilon for value in barriers.values())} below ε"
    last = max(row.rewind_step or 0 for row in data.select(experiment="connectivity", condition=PAIRS))
    text = (
        f"Of {count(len(barriers), 'pair')} of levels, rewound to step {last:,}, {near} {verb(near, 'has', 'have')} a "
        f"mean barrier below {points(STABLE.value, 0)} points on the straight line{within}; from level {farthest[0]} "
        f"to {farthest[1]} it is {points(barriers[farthest], 1)}, and it is largest, {points(barriers[worst], 1)}, "
        f"from level {worst[0]} to {worst[1]}."
    )
    if summary.threshold is not None:
        errors = _pairs(data, "max_error").items()
        inside = sum(value <= summary.threshold for (first, second), value in errors if first < second)
        text += f" On {inside} of these lines the mean of the largest error is itself a matching one."
    yield text


def _heat_map(data: Data) -> "draw.Figure":
    import matplotlib
    import numpy as np
    from matplotlib.colors import ListedColormap, LogNorm

    summary = levels(data)
    maps = {"largest error, %": _pairs(data, "max_error"), "error barrier, points": _pairs(data, "barrier")}
    maps = {label: values for label, values in maps.items() if values}
    figure, panels = draw.canvas(3.2, 1, len(maps), width=7.4)
    for axes, (label, values) in zip(panels, maps.items(), strict=True):
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="white")
        size = max(map(max, values)) + 1
        picture = np.full((size, size), np.nan)
        for (first, second), value in values.items():
            picture[first, second] = picture[second, first] = 100 * value
        floor = 100 * (summary.epsilon or STABLE.value)
        if label == "largest error, %":
            floor = 100 * (summary.threshold or min(values.values()))
        else:
            np.fill_diagonal(picture, 0.0)
        floor = max(floor, 1e-3)
        highest = float(np.nanmax(picture))
        top = max(highest, 2 * floor)
        picture = np.ma.masked_invalid(np.where(picture < floor, floor, picture))
        if highest <= floor:
            colours = ListedColormap([colours(0.0)]).with_extremes(bad="white")
        norm = LogNorm(floor, top)
        shown = axes.imshow(picture, cmap=colours, norm=norm, origin="lower", interpolation="nearest")
        draw.ticks(axes, {level: str(level) for level in range(size)})
        axes.set_yticks(range(size), [text.get_text() for text in axes.get_xticklabels()])
        axes.set_xlabel("level")
        axes.set_ylabel("level")
        _plain_ticks(figure.colorbar(shown, ax=axes, shrink=0.72, label=label), floor, top, highest <= floor)
    return figure


def _plain_ticks(bar: Any, floor: float, top: float, everything_below: bool) -> None:
    if everything_below:
        bar.set_ticks([math.sqrt(floor * top)], labels=[f"all ≤ {floor:.2g}"])
        bar.ax.tick_params(length=0)
    else:
        places = draw.round_numbers(1.15 * floor, top / 1.15)
        bar.set_ticks([floor, *places, top], labels=[f"≤ {floor:.2g}", *map("{:g}".format, places), f"{top:.2g}"])
    bar.ax.minorticks_off()


def _instability_figure(data: Data) -> "tuple[draw.Figure, Chart]":
    curves = {
        place: {step: of for step, of in curve.items() if of.finite} for place, curve in _instability(data).items()
    }
    curves = {place: curve for place, curve in curves.items() if curve}
    steps = sorted({step for curve in curves.values() for step in curve})
    at = sorted({level for _, level in curves})
    lines = []
    for (variant, level), curve in curves.items():
        look, density = _LOOKS[variant], _density(data, level)
        if variant != "dense" and density is not None:
            look = look._replace(label=f"{look.label}, {percent(density)}")
        look = look._replace(alpha=1 - 0.5 * at.index(level) / len(at))
        lines.append((look, {steps.index(step): of for step, of in curve.items()}))
    figure, (axes,) = draw.canvas(3.4)
    ends, highest = draw.dashes(axes, lines, 0.05)
    draw.barrier_axis(axes, highest, "instability")
    draw.place_axis(axes, [f"{step:,}" for step in steps], "step from which the copies part")
    draw.label_ends(axes, ends)
    return figure, Chart(lines, {place: f"step {step:,}" for place, step in enumerate(steps)}, limit=STABLE.value)


def _pairs(data: Data, metric: str) -> dict[tuple[int, int], float]:
    """Means over replicates, by the two levels; without those of which every replicate diverged."""
    found = data.by("level", "to_level", experiment="connectivity", condition=PAIRS, metric=metric)
    return {pair: values.mean for pair, values in found.items() if values.finite}


@once
def _instability(data: Data) -> Mapping[tuple[str, int], Mapping[int, Values]]:
    """By variant and level, the instability of the copies that part at each rewind step, over replicates."""
    found: dict[tuple[str, int], dict[int, Values]] = defaultdict(dict)
    columns = {"experiment": "connectivity", "condition": COPIES, "metric": "instability"}
    for (variant, level, step), values in sorted(data.by("variant", "level", "rewind_step", **columns).items()):
        found[variant, level][step] = values
    return found


def _mean_barrier(data: Data, step: int, of: Callable[[int], bool]) -> Values:
    """The mean barrier between successive levels, by replicate; NaN where one is."""
    gathered: dict[int, list[float]] = defaultdict(list)
    columns = {"experiment": "connectivity", "variant": "imp", "metric": "barrier"}
    for row in data.select(**columns, condition={}, rewind_step=step):
        if of(row.level):
            gathered[row.replicate].append(row.value)
    return Values({replicate: sum(values) / len(values) for replicate, values in gathered.items()})


def _density(data: Data, level: int) -> float | None:
    """Weights remaining at a level of copies; None at level 0."""
    rows = data.select(experiment="connectivity", condition=COPIES, level=level)
    return rows[0].density if level and rows else None
