"""What a run shows, in sentences made from its numbers, and what it does not show or cannot tell."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sparselt.report.summary import NEAR_ZERO_BARRIER, LevelSummary, Summary
from sparselt.report.tables import CONTROLS
from sparselt.report.wording import count, mean_and_std, percent, points, ranges


@dataclass(frozen=True)
class Agreement:
    """Pairs of successive levels, level 0 apart, of one rewind step: do matching and a near-zero barrier coincide?

    Each field holds the lower level of the pairs: both levels match or not, the mean barrier is near zero or not.
    """

    rewind_step: int
    matching_connected: tuple[int, ...]
    matching_separated: tuple[int, ...]
    failing_connected: tuple[int, ...]
    failing_separated: tuple[int, ...]

    @property
    def pairs(self) -> int:
        """How many pairs could be judged."""
        return self.agreeing + len(self.matching_separated) + len(self.failing_connected)

    @property
    def agreeing(self) -> int:
        """How many pairs are both or neither."""
        return len(self.matching_connected) + len(self.failing_separated)


def agreements(summary: Summary) -> list[Agreement]:
    """One for each rewind step that has a pair to judge; Unmasking's finding leaves level 0 apart (App. D)."""
    found = []
    for step in summary.rewind_steps:
        levels = {entry.level: entry for entry in summary.select("imp", step)}
        cells: dict[tuple[bool, bool], list[int]] = {}
        for level, entry in levels.items():
            following = levels.get(level + 1)
            if level == 0 or following is None or None in (entry.matching, following.matching, entry.connected):
                continue
            cells.setdefault((entry.matching and following.matching, entry.connected), []).append(level)
        order = ((True, True), (True, False), (False, True), (False, False))
        if cells:
            found.append(Agreement(step, *(tuple(cells.get(cell, ())) for cell in order)))
    return found


def findings(summary: Summary) -> list[str]:
    """The sentences of *What this shows*: the dense network, each rewind step, the coincidence, the controls."""
    texts = [_dense(summary), *(_rewound(summary, step) for step in summary.rewind_steps)]
    return [text for text in [*texts, _coincidence(summary), *_controls(summary)] if text]


def _dense(summary: Summary) -> str:
    dense = summary.dense
    if dense is None:
        return "The run holds no dense network: whether a ticket matches cannot be judged."
    if summary.epsilon is None:
        why = f"{dense.diverged} of its runs diverged" if dense.diverged else f"there is {count(dense.n, 'replicate')}"
        return (
            f"The dense network errs on {mean_and_std(dense)}% of the test examples. {_capital(why)}, so ε, the "
            "standard deviation of the dense error, is unknown and matching cannot be judged."
        )
    doubt = 1 / math.sqrt(2 * (dense.n - 1))
    return (
        f"The dense network errs on {mean_and_std(dense)}% of the test examples. A ticket matches when its mean error "
        f"is at most {points(summary.threshold)}%. That limit rests on {dense.n} dense runs: their standard deviation "
        f"is itself uncertain by about {100 * doubt:.0f}%, so a level near the limit may fall on either side."
    )


def _rewound(summary: Summary, step: int) -> str:
    """What one rewind step gave: down to where it matches, the error at the last level, the barriers."""
    levels = [entry for entry in summary.select("imp", step) if entry.level > 0]
    texts = [_matching(levels)] if levels and levels[0].matching is not None else []
    if levels:
        last = levels[-1]
        error = f"the error is {mean_and_std(last.error)}%" if last.error.n else "every replicate diverged"
        texts.append(f"At {percent(last.density)} of the weights {error}.")
    measured = [entry for entry in summary.select("imp", step) if entry.connected is not None]
    texts.append(_barriers(measured) if measured else "No barrier was measured.")
    return f"Rewound to step {step:,}: " + " ".join(texts)


def _matching(levels: Sequence[LevelSummary]) -> str:
    matching = [entry for entry in levels if entry.matching]
    if not matching:
        return f"no level matches ({count(len(levels), 'level')} tried)."
    if len(matching) == len(levels):
        return f"every level matches on average, down to {percent(levels[-1].density)} of the weights."
    unbroken = next(place for place, entry in enumerate(levels) if not entry.matching)
    if unbroken == len(matching):
        return f"matches on average down to {percent(levels[unbroken - 1].density)} of the weights, not below."
    start = f"every level down to {percent(levels[unbroken - 1].density)}" if unbroken else "not the first"
    return (
        f"matches on average at {len(matching)} of {count(len(levels), 'level')} "
        f"({ranges([entry.level for entry in matching])}): {start}, the sparsest at {percent(matching[-1].density)}."
    )


def _barriers(measured: Sequence[LevelSummary]) -> str:
    means = [entry.barrier.mean for entry in measured]
    largest = max(measured, key=lambda entry: entry.barrier.mean)
    if len(means) == 1:
        return f"The mean barrier from level {largest.level} to {largest.level + 1} is {points(means[0], 1)} points."
    return (
        f"The mean barrier between successive levels has a median of {points(statistics.median(means), 1)} points; it "
        f"is largest, {points(max(means), 1)}, from level {largest.level} to {largest.level + 1}, and smallest at "
        f"{points(min(means), 1)}."
    )


def _coincidence(summary: Summary) -> str:
    """Unmasking's main finding, held against this run."""
    claim = "that successive levels are connected without a barrier if and only if both match"
    found = agreements(summary)
    if not found:
        if summary.threshold is None or not any(entry.barrier for entry in summary.levels):
            return (
                f"The paper's finding, {claim}, cannot be judged here: it takes barriers and at least two dense runs."
            )
        return f"The paper's finding, {claim}, cannot be judged here: no pair of levels above level 0 has all it takes."
    pairs, agreeing = sum(a.pairs for a in found), sum(a.agreeing for a in found)
    separated = sum(len(a.matching_separated) + len(a.failing_separated) for a in found)
    failing = sum(len(a.failing_connected) + len(a.failing_separated) for a in found)
    result = "all" if agreeing == pairs else f"{agreeing} of"
    texts = [
        f"The paper finds {claim} (level 0 apart). Counting a mean barrier below {points(NEAR_ZERO_BARRIER, 0)} points "
        f"as none, the two coincide at {result} {count(pairs, 'pair')} of levels here."
    ]
    texts += [_exceptions(found)] if agreeing < pairs else []
    same = {0: "At no pair is there", pairs: "At every pair there is"}
    if separated in same:
        texts.append(f"{same[separated]} a barrier, so this run shows one side of the finding only.")
    elif failing in same:
        texts.append(f"{same[failing]} a level that does not match, so this run shows one side of the finding only.")
    return " ".join(texts)


def _exceptions(found: Sequence[Agreement]) -> str:
    connected = [
        f"rewind {a.rewind_step:,} from level {ranges(a.failing_connected)}" for a in found if a.failing_connected
    ]
    separated = [
        f"rewind {a.rewind_step:,} from level {ranges(a.matching_separated)}" for a in found if a.matching_separated
    ]
    texts = [f"Connected although not both match: {'; '.join(connected)}."] if connected else []
    texts += [f"Separated although both match: {'; '.join(separated)}."] if separated else []
    return " ".join(texts)


def _controls(summary: Summary) -> list[str]:
    """The controls at the sparsest level they were run at, beside the ticket."""
    controls = [entry for variant in CONTROLS for entry in summary.select(variant)]
    if not controls:
        return []
    sparsest = max(controls, key=lambda entry: entry.level)
    same = [e for e in summary.levels if (e.level, e.rewind_step) == (sparsest.level, sparsest.rewind_step)]
    names = {"imp": f"the ticket rewound to step {sparsest.rewind_step:,}"} if sparsest.rewind_step is not None else {}
    names |= {"random": "a random mask of the same layerwise densities", "reinit": "the ticket's mask on fresh weights"}
    errors = [f"{names[e.variant]} {mean_and_std(e.error)}" for e in same if e.variant in names]
    return [f"Test error in % at {percent(sparsest.density)} of the weights: {', '.join(errors)}."]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
