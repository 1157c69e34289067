"""What a page opens with: IMP, its controls and the lines between its levels, in sentences and tables."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from sparselt.experiments.imp.figures import lead_drawings
from sparselt.experiments.imp.levels import CONTROLS, Level, Levels, agreements, concerns, levels
from sparselt.report.data import Data, Lead
from sparselt.report.rules import STABLE
from sparselt.report.statistic import Statistic
from sparselt.report.table import MARK, Table
from sparselt.report.wording import DIVERGED_MARK, count, every, mean_and_std, percent, points, ranges

_WIDE = 108  # columns from which standard deviations stand apart and barriers have theirs


def findings(data: Data) -> list[str]:
    """The dense network, each rewind step, the coincidence of matching and connection, the controls."""
    summary = levels(data)
    rewound = [_rewound(summary, step) for step in summary.rewind_steps]
    return [dense_sentence(summary.dense), *rewound, _coincidence(data), *_controls(summary)]


def counts(data: Data) -> Table | None:
    """Matching against connected, counted by rewind step; None where no pair can be judged."""
    names = ("both match, no barrier", "not both, barrier", "both match, barrier", "not both, no barrier")
    order = (0, 3, 1, 2)  # of Agreement.cells
    lines = [(f"{of.rewind_step:,}", *(str(len(of.cells[cell])) for cell in order)) for of in agreements(data)]
    note = (
        "Pairs of successive levels, level 0 apart. The first two columns agree with the paper's finding, the last two "
        "do not."
    )
    return Table(("rewound to", *names), lines, text=1, note=note) if lines else None


def tables(data: Data, width: int | None) -> list[Table]:
    """Test error in % and barrier in points by level; then the controls beside the tickets of the same density.

    A terminal of `width` columns gets as many rewind steps in a table as fit.
    """
    summary = levels(data)
    steps = summary.rewind_steps
    at_once = len(steps) if width is None else max(1, (width - 12) // (31 if width >= _WIDE else 20))
    groups = [steps[first : first + at_once] for first in range(0, len(steps), at_once or 1)] or [()]
    found = [_level_table(summary, group, width) for group in groups]
    notes = (" " if width is None else "\n").join(_notes(summary))
    return [*found[:-1], dataclasses.replace(found[-1], note=notes), *_control_table(summary, width)]


def dense_sentence(dense: Statistic) -> str:
    """What the dense network errs on, and up to which error a ticket matches, or why matching cannot be judged."""
    return _dense(dense)[0]


LEAD = Lead(concerns, findings, lead_drawings, counts, tables)


def _dense(dense: Statistic) -> tuple[str, str]:
    """What the dense network errs on, and whether matching can be judged: a sentence, and the note below the table."""
    errs = f"The dense network errs on {mean_and_std(dense)}% of the test examples."
    if not dense.n + dense.diverged:
        return (
            "The run holds no dense network: whether a ticket matches cannot be judged.",
            "There is no dense run, so matching cannot be judged.",
        )
    if dense.epsilon is None or dense.limit is None:
        why = f"{dense.diverged} of its runs diverged" if dense.diverged else f"There is {count(dense.n, 'replicate')}"
        few = "some of them diverged" if dense.diverged else f"n = {dense.n}"
        unknown = "so ε, the standard deviation of the dense error, is unknown and matching cannot be judged."
        return (
            f"{errs} {why}, {unknown}",
            f"Dense test error {mean_and_std(dense)}%. Matching cannot be judged: ε is the standard deviation of the "
            f"dense runs, which takes at least two ({few}).",
        )
    return (
        f"{errs} A ticket matches when its mean error is at most {points(dense.limit)}%. That limit rests on {dense.n} "
        "dense runs: their standard deviation is itself uncertain by about "
        f"{100 / math.sqrt(2 * (dense.n - 1)):.0f}%, so a level near the limit may fall on either side.",
        f"{MARK} matching: error at most {points(dense.limit)}%, the dense mean {points(dense.mean)}% plus ε = "
        f"{points(dense.epsilon)}, the standard deviation of {dense.n} dense runs.",
    )


def _rewound(summary: Levels, step: int) -> str:
    """What one rewind step gave: down to where it matches, the error at the last level, the barriers."""
    entries = summary.select("imp", step)
    pruned = [entry for entry in entries if entry.level > 0]
    texts = [_matching(pruned)] if pruned and pruned[0].matching is not None else []
    if pruned:
        last = pruned[-1]
        error = f"the error is {mean_and_std(last.error)}%" if last.error.n else "every replicate diverged"
        texts.append(f"At {percent(last.density)} of the weights {error}.")
    barriers = {e.level: e.barrier.mean for e in entries if e.barrier is not None and e.barrier.n}
    return f"Rewound to step {step:,}: " + " ".join([*texts, _barriers(barriers)])


def _matching(entries: Sequence[Level]) -> str:
    matching = [entry for entry in entries if entry.matching]
    if not matching:
        return f"no level matches ({count(len(entries), 'level')} tried)."
    if len(matching) == len(entries):
        return f"every level matches on average, down to {percent(entries[-1].density)} of the weights."
    unbroken = next(place for place, entry in enumerate(entries) if not entry.matching)
    if unbroken == len(matching):
        return f"matches on average down to {percent(entries[unbroken - 1].density)} of the weights, not below."
    start = f"every level down to {percent(entries[unbroken - 1].density)}" if unbroken else "not the first"
    return (
        f"matches on average at {len(matching)} of {count(len(entries), 'level')} "
        f"({ranges([entry.level for entry in matching])}): {start}, the sparsest at {percent(matching[-1].density)}."
    )


def _barriers(means: dict[int, float]) -> str:
    """The mean barriers by their lower level."""
    if not means:
        return "No barrier was measured."
    largest = max(means, key=lambda level: means[level])
    if len(means) == 1:
        return f"The mean barrier from level {largest} to {largest + 1} is {points(means[largest], 1)} points."
    return (
        f"The mean barrier between successive levels has a median of {points(statistics.median(means.values()), 1)} "
        f"points; it is largest, {points(means[largest], 1)}, from level {largest} to {largest + 1}, and smallest at "
        f"{points(min(means.values()), 1)}."
    )


def _coincidence(data: Data) -> str:
    """Unmasking's main finding, held against this run."""
    claim = "that successive levels are connected without a barrier if and only if both match"
    found, summary = agreements(data), levels(data)
    if not found:
        takes = "no pair of levels above level 0 has all it takes."
        if not any(entry.barrier for entry in summary.levels):
            takes = "it takes barriers between levels, which the experiment connectivity measures."
        elif summary.threshold is None:
            takes = "it takes at least two dense runs, none of them diverged."
        return f"The finding of Paul et al. 2022, {claim}, cannot be judged here: {takes}"
    pairs, agreeing = sum(a.pairs for a in found), sum(a.agreeing for a in found)
    beside = sum(a.agreeing for a in agreements(data, STABLE.value))
    coincide = every(pairs, "pair") if agreeing == pairs else f"{agreeing} of {count(pairs, 'pair')}"
    separated = sum(len(a.matching_separated) + len(a.failing_separated) for a in found)
    failing = sum(len(a.failing_connected) + len(a.failing_separated) for a in found)
    text = (
        f"Paul et al. 2022 find {claim} (level 0 apart). Counting a mean barrier up to "
        f"ε = {points(summary.epsilon or 0.0)} points as none, the two coincide at "
        f"{coincide} of levels here (at {beside} if barriers up to the {STABLE.text} of Linear Mode Connectivity count "
        "as none)."
    )
    text += _exceptions("Connected although not both match", {a.rewind_step: a.failing_connected for a in found})
    text += _exceptions("Separated although both match", {a.rewind_step: a.matching_separated for a in found})
    same = {0: "At no pair is there", pairs: "At every pair there is"}
    for number, what in ((separated, "a barrier"), (failing, "a level that does not match")):
        if number in same:
            return f"{text} {same[number]} {what}, so this run shows one side of the finding only."
    return text


def _exceptions(what: str, by_step: dict[int, Sequence[int]]) -> str:
    texts = [f"rewind {step:,} from level {ranges(found)}" for step, found in by_step.items() if found]
    return f" {what}: {'; '.join(texts)}." if texts else ""


def _controls(summary: Levels) -> list[str]:
    """The controls at the sparsest level they were run at, beside the ticket."""
    sparsest = max(
        (entry for variant in CONTROLS for entry in summary.select(variant)), key=lambda e: e.level, default=None
    )
    if sparsest is None:
        return []
    names = {"imp": f"the ticket rewound to step {sparsest.rewind_step:,}"} if sparsest.rewind_step is not None else {}
    names |= {"random": "a random mask of the same layerwise densities", "reinit": "the ticket's mask on fresh weights"}
    same = [summary.at(variant, sparsest.rewind_step, sparsest.level) for variant in names]
    errors = [f"{names[entry.variant]} {mean_and_std(entry.error)}" for entry in same if entry]
    return [f"Test error in % at {percent(sparsest.density)} of the weights: {', '.join(errors)}."]


def _notes(summary: Levels) -> list[str]:
    """The dense error, what the marks mean, what cannot be judged."""
    what = "Mean ± standard deviation over replicates"
    what += (
        "; the barrier is that to the next level, in points." if any(entry.barrier for entry in summary.levels) else "."
    )
    most = max((entry.error.n for entry in summary.levels if entry.level > 0), default=0)
    if 0 < most < summary.dense.n:
        what += f" Level 0 is of {summary.dense.n} dense networks, the others of {count(most, 'replicate')}."
    notes = [what, _dense(summary.dense)[1]]
    if any(entry.error.diverged or (entry.barrier and entry.barrier.diverged) for entry in summary.levels):
        what = "some replicates diverged; the mean is over the others, and the level does not match."
        notes.append(f"{DIVERGED_MARK} {what}")
    return notes


def _level_table(summary: Levels, steps: Sequence[int], width: int | None) -> Table:
    lines = []
    for level, density in summary.density.items():
        cells = [cell for step in steps for cell in _cells(summary.at("imp", step, level), width)]
        lines.append((str(level), percent(density), *(cells if steps else [mean_and_std(summary.dense)])))
    if not steps:
        return Table(("level", "weights", "dense, error %" if width is None else "dense\nerror %"), lines)
    names = ("error %", "barrier, points") if width is None else ("error %", "barrier")
    groups = [(f"rewound to {step:,}" if width is None else f"rewind {step}", 2) for step in steps]
    faint = range(3, 3 + 2 * len(steps), 2)
    table = Table(("level", "weights", *names * len(steps)), lines, groups=[("", 2), *groups], faint=faint)
    return table.without_empty_columns()


def _cells(entry: Level | None, width: int | None) -> tuple[str, str]:
    """Error and barrier; short ones where a terminal is narrow."""
    if entry is None:
        return "–", "–"
    narrow = width is not None and width < _WIDE
    error = mean_and_std(entry.error, tight=narrow) + (MARK if entry.matching else "")
    if not narrow or entry.barrier is None:
        return error, mean_and_std(entry.barrier, 1)
    return error, points(entry.barrier.mean, 1) + (DIVERGED_MARK if entry.barrier.diverged and entry.barrier.n else "")


def _control_table(summary: Levels, width: int | None) -> list[Table]:
    """For each level and rewind step with a control: the errors of the ticket and of the controls."""
    variants = [variant for variant in CONTROLS if summary.select(variant)]
    places = {(entry.level, entry.rewind_step or 0): entry for variant in variants for entry in summary.select(variant)}
    lines = []
    for _, control in sorted(places.items()):
        found = [summary.at(variant, control.rewind_step, control.level) for variant in ("imp", *variants)]
        step = "–" if control.rewind_step is None else f"{control.rewind_step:,}"
        errors = [mean_and_std(entry.error if entry else None) for entry in found]
        lines.append((str(control.level), percent(control.density), step, *errors))
    error = ", error %" if width is None else "\nerror %"
    names = [f"{name}{error}" for name in ("IMP", *(CONTROLS[variant] for variant in variants))]
    table = Table(("level", "weights", "rewind", *names), lines, title="Controls")
    return [table.without_empty_columns()] if lines else []
