"""Iterative magnitude pruning, its controls and variants (all four papers; Renda et al. 2020 for two variants).

Rewinding early succeeds where rewinding to step 0 fails (Frankle et al. 2019): at the sparsest level at which some
later rewind step matches on average, the error rewound to 0 is larger by a one-sided paired t test, and does not match;
of several later steps the latest that matches there is taken. Controls: the ticket's error at the sparsest control
level is lower, one-sided paired t. Matching is that of the summary: the mean over replicates, at most dense mean + ε.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from sparselt.report.drawing import COLOURS, GREY, dense_label, error_axis, label_ends, matching_band, ticks
from sparselt.report.inference import paired
from sparselt.report.section import Claim, Data, Drawing, Section
from sparselt.report.summary import LevelSummary, Statistic
from sparselt.report.verdicts import TOO_FEW, Values, lower
from sparselt.report.wording import count, listing, mean_and_std, percent, points, ranges

VARIANTS = {
    "shuffled": "shuffled weights",
    "one_shot": "one-shot",
    "layerwise": "layerwise",
    "lr_rewinding": "rate rewound",
    "fine_tuning": "fine-tuned",
}
"""The variants that the second figure shows beside IMP, by their names in the results."""

_LOOKS = {
    "imp": (COLOURS[2], "D", "-"),
    "shuffled": (GREY, "x", "none"),
    "one_shot": (COLOURS[0], "o", "--"),
    "layerwise": (COLOURS[1], "s", "-"),
    "lr_rewinding": (COLOURS[3], "v", "-"),
    "fine_tuning": (COLOURS[4], "P", "-"),
}
_STABILIZING = "Frankle et al. 2019 (Stabilizing)"
_CONTROLS = {
    "random": ("a random mask of the same layerwise densities", _STABILIZING),
    "reinit": ("its own mask on a fresh initialization", f"{_STABILIZING}, Maene et al. 2021"),
}


def drawings(data: Data) -> dict[str, Drawing]:
    """Error against density of IMP and its variants, where any was run."""
    figure = _variants(data) if any(_finite(data, variant) for variant in VARIANTS) else None
    return {} if figure is None else {"variants": Drawing(figure, _HEADING, _CAPTION + _replicates(data))}


def findings(data: Data) -> list[str]:
    """Each variant beside the ticket at its sparsest level."""
    return list(_compared(data))


def claims(data: Data) -> list[Claim]:
    """Early rewinding against step 0; the ticket against its controls."""
    return [*_rewinding(data), *_controls(data)]


SECTION = Section("Variants of iterative magnitude pruning", drawings, findings, claims)

_HEADING = "Other ways to prune and to train on"
_CAPTION = (
    "Mean and standard deviation over replicates. IMP: weights rewound, all layers ranked together. Shuffled weights: "
    "the ticket's rewound weights permuted within each layer. One-shot: pruned once to the same density, and rewound. "
    "Layerwise: each layer ranked on its own. Rate rewound: final weights kept, schedule rewound. Fine-tuned: final "
    "weights kept, trained on at the last learning rate for as many steps (both after Renda et al. 2020). Grey line "
    "and band: the dense mean, and up to ε above it."
)


def _rewinding(data: Data) -> Iterator[Claim]:
    summary = data.levels
    later = [step for step in summary.rewind_steps if step > 0]
    if summary.threshold is None or 0 not in summary.rewind_steps or not later:
        return
    claim = (
        "IMP that rewinds to initialization does not find subnetworks that match the dense network; IMP that rewinds "
        "to a step early in training does"
    )
    paper = _STABILIZING
    matching = [entry for step in later for entry in summary.select("imp", step) if entry.matching]
    if not matching:
        here = f"rewound to step {listing([f'{step:,}' for step in later])} no level matches"
        yield Claim(paper, claim, here, "no level to test", 0, None, "cannot be seen at this scale")
        return
    found = max(matching, key=lambda entry: (entry.level, entry.rewind_step))
    first, second = (_errors(data, "imp", step, found.level) for step in (found.rewind_step, 0))
    judged = lower(first, second)
    start = next((entry for entry in summary.select("imp", 0) if entry.level == found.level), None)
    if start is not None and start.matching and judged.verdict == "agrees":
        judged = dataclasses.replace(judged, verdict="does not agree")
    matched = [entry.level for entry in summary.select("imp", 0) if entry.matching]
    here = (
        f"at {percent(found.density)} of the weights, the sparsest level that matches: error "
        f"{mean_and_std(found.error)}% rewound to step {found.rewind_step:,}, "
        f"{mean_and_std(start.error if start else None)}% to step 0 (dense {mean_and_std(summary.dense)}%); rewound to "
        f"step 0, levels that match: {ranges(matched) if matched else 'none'}"
    )
    yield judged.claim(paper, claim, here)


def _controls(data: Data) -> Iterator[Claim]:
    for variant, (what, paper) in _CONTROLS.items():
        control = _sparsest(data, variant)
        if control is None:
            continue
        ticket = _ticket(data, control)
        first = _errors(data, "imp", control.rewind_step, control.level)
        second = _errors(data, variant, control.rewind_step, control.level)
        here = (
            f"{mean_and_std(ticket.error if ticket else None)}% against {mean_and_std(control.error)}% at "
            f"{percent(control.density)} of the weights"
        )
        claim = f"the subnetwork that IMP finds errs less than {what}, at equal density"
        yield lower(first, second).claim(paper, claim, here)


def _compared(data: Data) -> Iterator[str]:
    """A sentence for each variant: errors at its sparsest level, tested, and at how many it is the better one."""
    for variant, name in VARIANTS.items():
        entry = _sparsest(data, variant)
        if entry is None:
            continue
        text = (
            f"{name[0].upper()}{name[1:]}: {mean_and_std(entry.error)}% at {percent(entry.density)} of the weights, "
            f"where IMP has {mean_and_std(_beside(data, entry))}% in the same replicates"
        )
        yield f"{text}{_difference(data, entry)}. {_levels_below(data, variant)}"


def _difference(data: Data, entry: LevelSummary) -> str:
    first, second = (_errors(data, name, entry.rewind_step, entry.level) for name in (entry.variant, "imp"))
    if lower(first, second).p is None:
        return f" ({TOO_FEW})"
    test = paired(first, second)
    return f" (difference {points(test.mean)} points, {test.text}, n = {test.n}, p = {test.p:.2g})"


def _beside(data: Data, entry: LevelSummary) -> Statistic | None:
    """IMP's errors in the replicates that a variant was run in; None where there is none."""
    others = _errors(data, entry.variant, entry.rewind_step, entry.level)
    errors = _errors(data, "imp", entry.rewind_step, entry.level)
    return Statistic.of(errors[k] for k in errors.keys() & others.keys()) if errors.keys() & others.keys() else None


def _levels_below(data: Data, variant: str) -> str:
    pairs = [(entry, _beside(data, entry)) for entry in data.levels.select(variant)]
    differences = [entry.error.mean - ticket.mean for entry, ticket in pairs if ticket is not None]
    finite = [difference for difference in differences if math.isfinite(difference)]
    return f"Its mean error is below IMP's at {sum(d < 0 for d in finite)} of {count(len(finite), 'level')}."


def _variants(data: Data):
    """The figure: IMP at the variants' rewind step, and each variant."""
    from matplotlib.figure import Figure

    step = next(entry.rewind_step for variant in VARIANTS for entry in data.levels.select(variant))
    series = {"imp": _finite(data, "imp", step)} | {variant: _finite(data, variant, step) for variant in VARIANTS}
    series = {variant: entries for variant, entries in series.items() if entries}
    densities = sorted(
        {entry.density for entry in series.get("imp", [])} or {e.density for s in series.values() for e in s}
    )
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes = figure.subplots()
    labels = []
    for place, (variant, entries) in enumerate(series.items()):
        colour, marker, line = _LOOKS[variant]
        # Shifted by a hair, so that the bars do not hide each other.
        shift = (densities[0] / densities[-1]) ** (0.004 * (place - (len(series) - 1) / 2))
        x = [entry.density * (shift if entry.level else 1) for entry in entries]
        y = [100 * entry.error.mean for entry in entries]
        bars = [100 * (entry.error.std or 0) * (entry.level > 0) for entry in entries]
        axes.errorbar(x, y, bars, color=colour, marker=marker, linestyle=line, elinewidth=0.8, zorder=3)
        labels.append((VARIANTS.get(variant, f"IMP, rewind {step:,}"), colour, y[-1]))
    drawn = [entry.error for entries in series.values() for entry in entries]
    error_axis(axes, [100 * error.mean for error in drawn], [100 * (error.mean + (error.std or 0)) for error in drawn])
    matching_band(axes, data.levels)
    axes.set_xscale("log")
    axes.set_xlim(densities[-1] * 1.04, densities[0] / 1.04)
    ticks(axes, {density: percent(density).rstrip("%") for density in reversed(densities)})
    axes.set_xlabel("weights remaining, % (log scale)")
    label_ends(axes, labels + dense_label(data.levels))
    return figure


def _replicates(data: Data) -> str:
    """Of how many each mean is, where the numbers differ: ` Replicates: 12 of the dense network, 5 of IMP.`"""
    step = next(entry.rewind_step for variant in VARIANTS for entry in data.levels.select(variant))
    names: dict[int, list[str]] = defaultdict(list)
    for variant, name in {"dense": "the dense network", "imp": "IMP", **VARIANTS}.items():
        rows = data.select(experiment="imp", variant=variant, metric="test_error", condition="")
        replicates = {row.replicate for row in rows if row.rewind_step in (None, step)}
        if replicates:
            names[len(replicates)].append(name)
    texts = [f"{number} of {listing(of)}" for number, of in names.items()]
    return f" Replicates: {', '.join(texts)}." if len(texts) > 1 else ""


def _finite(data: Data, variant: str, step: int | None = None) -> Sequence[LevelSummary]:
    return [entry for entry in data.levels.select(variant, step) if math.isfinite(entry.error.mean)]


def _sparsest(data: Data, variant: str) -> LevelSummary | None:
    return max(data.levels.select(variant), key=lambda entry: entry.level, default=None)


def _ticket(data: Data, entry: LevelSummary) -> LevelSummary | None:
    """IMP at the level and rewind step of another variant."""
    tickets = data.levels.select("imp", entry.rewind_step)
    return next((ticket for ticket in tickets if ticket.level == entry.level), None)


def _errors(data: Data, variant: str, step: int | None, level: int) -> Values:
    """Test error by replicate."""
    found: Mapping[tuple, dict[int, float]] = data.by(
        experiment="imp", variant=variant, rewind_step=step, level=level, metric="test_error", condition=""
    )
    return found.get((), {})
