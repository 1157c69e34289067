"""Iterative magnitude pruning, its controls and variants (all four papers; Renda et al. 2020 for two variants).

Rewinding early succeeds where rewinding to step 0 fails (Frankle et al. 2019): rewound to the judged step tickets match
the dense network, rewound to step 0 they do not. Controls: the ticket's error is lower. See `sparselt.report.rules`.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

from sparselt.experiments.imp.figures import VARIANTS, drawings
from sparselt.experiments.imp.lead import LEAD
from sparselt.experiments.imp.levels import Level, levels
from sparselt.report.data import Claim, Data, Section, listed
from sparselt.report.results import condition_text, conditions
from sparselt.report.rules import (
    REPLICATES,
    above,
    all_of,
    below,
    dense_errors,
    epsilon,
    judged_level,
    judged_step,
    lower,
    student,
    within,
)
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import count, listing, mean_and_std, p_text, percent, points, ranges

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
        difference = (_errors(data, entry, variant) - _errors(data, entry, "imp")).finite
        tested = below(difference).statistic
        if len(difference) >= REPLICATES:
            test, p = student([*difference.values()], "two-sided")
            tested = f"difference {points(difference.mean)} points, paired {test}, n = {len(difference)}, {p_text(p)}"
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
        controls = {entry.level: entry for entry in levels(data).select(variant)}
        if level := judged_level({level: entry.density for level, entry in controls.items()}):
            ticket, control = (_errors(data, controls[level], of) for of in ("imp", variant))
            yield lower(ticket, control).claim(
                paper,
                f"the subnetwork that IMP finds errs less than {what}, at equal density",
                f"{ticket:.2%} against {control:.2%} at {percent(controls[level].density)} of the weights",
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


_UNKNOWN = "which levels match cannot be judged"


def _rewinding(data: Data) -> Iterator[Claim]:
    summary, dense = levels(data), dense_errors(data)
    steps = [step for step in summary.rewind_steps if step > 0]
    step, level = judged_step(data, steps), judged_level(summary.density)
    late, start = summary.at("imp", step, level), summary.at("imp", 0, level)
    if data.wins_at_init and start and level:
        alike = [entry.level for entry in summary.select("imp", 0) if entry.matching]
        matching = (
            f"levels whose mean matches: {ranges(alike) or 'none'}" if summary.threshold is not None else _UNKNOWN
        )
        yield below(_errors(data, start) - dense, epsilon(summary.dense)).claim(
            _STABILIZING,
            "IMP that rewinds to initialization finds subnetworks that err no more than the dense network",
            f"at {percent(start.density)} of the weights error {mean_and_std(start.error)}% (dense "
            f"{mean_and_std(summary.dense)}%); {matching}",
        )
    if data.wins_at_init or not step or not level or not late or not start:
        return
    above_dense = [_errors(data, entry) - dense for entry in (start, late)]
    margin = epsilon(summary.dense)
    matching = _UNKNOWN
    if summary.threshold is not None:
        of_late, of_start = (
            ranges([entry.level for entry in summary.select("imp", at) if entry.matching]) or "none" for at in (step, 0)
        )
        matching = f"levels whose mean matches: {of_late} rewound to step {step:,}, {of_start} to step 0"
    yield all_of(above(above_dense[0], margin), within(above_dense[1], margin)).claim(
        _STABILIZING,
        "IMP that rewinds to initialization does not find subnetworks that match the dense network; IMP that rewinds "
        "to a step early in training does",
        f"at {percent(late.density)} of the weights error {mean_and_std(late.error)}% rewound to step {step:,}, "
        f"{mean_and_std(start.error)}% to step 0 (dense {mean_and_std(summary.dense)}%); {matching}",
    )


def _beside(data: Data, entry: Level) -> Statistic | None:
    """IMP's errors at a variant's level, in the replicates that the variant was run in; None where there are none."""
    others = _errors(data, entry)
    errors = [error for replicate, error in _errors(data, entry, "imp").items() if replicate in others]
    return Statistic.of(errors) if errors else None


def _errors(data: Data, entry: Level, variant: str = "") -> Values:
    """Test errors of a level, or of another variant at that level."""
    place = {"variant": variant or entry.variant, "rewind_step": entry.rewind_step, "level": entry.level}
    return data.values(experiment="imp", metric="test_error", condition={}, **place)
