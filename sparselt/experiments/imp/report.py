"""Iterative magnitude pruning, its controls and variants (all four papers; Renda et al. 2020 for two variants).

Rewinding early succeeds where rewinding to step 0 fails (Frankle et al. 2019): at the sparsest level at which some
later rewind step matches on average, the error rewound to 0 is larger by a one-sided paired t test, and does not match;
of several later steps the latest that matches there is taken. Controls: the ticket's error at the sparsest control
level is lower, one-sided paired t. Matching is that of `levels`: the mean over replicates, at most dense mean + ε.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator

from sparselt.experiments.imp.figures import VARIANTS, drawings
from sparselt.experiments.imp.lead import LEAD
from sparselt.experiments.imp.levels import Level, levels
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.inference import paired
from sparselt.report.results import condition_text, conditions
from sparselt.report.statistic import Statistic, Values
from sparselt.report.verdicts import TOO_FEW, lower
from sparselt.report.wording import count, listing, mean_and_std, percent, points, ranges

_STABILIZING = "Frankle et al. 2019 (Stabilizing)"
_CONTROLS = {
    "random": ("a random mask of the same layerwise densities", _STABILIZING),
    "reinit": ("its own mask on a fresh initialization", f"{_STABILIZING}, Maene et al. 2021"),
}


@listed
def findings(data: Data) -> Iterator[str]:
    """Each variant beside the ticket at its sparsest level: errors, tested, and at how many levels it is better."""
    for variant, look in VARIANTS.items():
        entry = levels(data).sparsest(variant)
        if entry is None:
            continue
        first, second = (_errors(data, entry, of) for of in (variant, "imp"))
        tested = TOO_FEW
        if lower(first, second).p is not None:
            test = paired(first, second)
            tested = f"difference {points(test.mean)} points, {test.text}, n = {test.n}, p = {test.p:.2g}"
        pairs = [(other.error, _beside(data, other)) for other in levels(data).select(variant)]
        differences = [error.mean - ticket.mean for error, ticket in pairs if ticket]
        differences = [difference for difference in differences if math.isfinite(difference)]
        yield (
            f"{look.label[0].upper()}{look.label[1:]}: {mean_and_std(entry.error)}% at {percent(entry.density)} of the "
            f"weights, where IMP has {mean_and_std(_beside(data, entry))}% in the same replicates ({tested}). Its mean "
            f"error is below IMP's at {sum(d < 0 for d in differences)} of {count(len(differences), 'level')}."
        )


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Early rewinding against step 0; the ticket against its controls."""
    yield from _rewinding(data)
    for variant, (what, paper) in _CONTROLS.items():
        if control := levels(data).sparsest(variant):
            ticket = levels(data).at("imp", control.rewind_step, control.level)
            yield lower(_errors(data, control, "imp"), _errors(data, control)).claim(
                paper,
                f"the subnetwork that IMP finds errs less than {what}, at equal density",
                f"{mean_and_std(ticket.error if ticket else None)}% against {mean_and_std(control.error)}% at "
                f"{percent(control.density)} of the weights",
            )


@listed
def warnings(data: Data) -> Iterator[str]:
    """A sentence for each layer that pruning left without a weight, in whatever experiment, by name, with the networks
    it is empty in; one for all layers that share these."""
    places: dict[str, dict[tuple, dict[int, set[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for row in data.select(metric="empty_layer"):
        others = dict(conditions(row.condition))
        layer = others.pop("layer", row.condition)
        network = row.variant if row.experiment == "imp" else f"{row.variant} in {row.experiment}"
        places[layer][network, condition_text(others), row.rewind_step][row.level].add(row.replicate)
    layers: dict[str, list[str]] = defaultdict(list)
    for layer, networks in places.items():
        texts = [
            network
            + ("" if step is None else f" rewound to step {step:,}")
            + f" at level {ranges(sorted(levels))} ("
            + (f"{others}, " if others else "")
            + f"replicate {ranges(sorted(set().union(*levels.values())))})"
            for (network, others, step), levels in networks.items()
        ]
        layers[listing(texts)].append(layer)
    for text, names in layers.items():
        noun, it = ("layer", "it") if len(names) == 1 else ("layers", "them")
        yield (
            f"Pruning left no weight in {noun} {listing(names)} of {text}: nothing passes through {it} but biases, nor "
            f"past {it} except by a shortcut."
        )


SECTION = Section("Variants of iterative magnitude pruning", drawings, findings, claims, warnings, LEAD)


def _rewinding(data: Data) -> Iterator[Claim]:
    summary = levels(data)
    later = [step for step in summary.rewind_steps if step > 0]
    if summary.threshold is None or 0 not in summary.rewind_steps or not later:
        return
    claim = (
        "IMP that rewinds to initialization does not find subnetworks that match the dense network; IMP that rewinds "
        "to a step early in training does"
    )
    matching = [entry for step in later for entry in summary.select("imp", step) if entry.matching]
    if not matching:
        here = f"rewound to step {listing([f'{step:,}' for step in later])} no level matches"
        yield Claim(_STABILIZING, claim, here, "no level to test", 0, None, "cannot be seen at this scale")
        return
    found = max(matching, key=lambda entry: (entry.level, entry.rewind_step))
    start = summary.at("imp", 0, found.level)
    judged = lower(_errors(data, found), _errors(data, dataclasses.replace(found, rewind_step=0)))
    if start is not None and start.matching and judged.verdict == "agrees":
        judged = dataclasses.replace(judged, verdict="does not agree")
    matched = [entry.level for entry in summary.select("imp", 0) if entry.matching]
    here = (
        f"at {percent(found.density)} of the weights, the sparsest level that matches: error "
        f"{mean_and_std(found.error)}% rewound to step {found.rewind_step:,}, "
        f"{mean_and_std(start.error if start else None)}% to step 0 (dense {mean_and_std(summary.dense)}%); rewound to "
        f"step 0, levels that match: {ranges(matched) if matched else 'none'}"
    )
    yield judged.claim(_STABILIZING, claim, here)


def _beside(data: Data, entry: Level) -> Statistic | None:
    """IMP's errors at a variant's level, in the replicates that the variant was run in; None where there are none."""
    others = _errors(data, entry)
    errors = [error for replicate, error in _errors(data, entry, "imp").items() if replicate in others]
    return Statistic.of(errors) if errors else None


def _errors(data: Data, entry: Level, variant: str = "") -> Values:
    """Test errors of a level, or of another variant at that level."""
    place = {"variant": variant or entry.variant, "rewind_step": entry.rewind_step, "level": entry.level}
    return data.values(experiment="imp", metric="test_error", condition={}, **place)
