"""How numbers read: the same in the terminal, on the page and in the figures."""

import math
from collections.abc import Sequence

from sparselt.report.statistic import Statistic

DIVERGED_MARK = "†"

DASHES = (
    "Lines: means over replicates; short dashes, in the PNG and SVG: single replicates. Upright bars, in the "
    "interactive figure: ± the standard deviation over replicates."
)
"""A caption for lines drawn by `drawing.dashes`, true of their interactive version as well."""


def level_name(level: int, density: float | None) -> str:
    """`level 3, 51.2% of the weights`; without its density where that is not known."""
    return f"level {level}" if density is None else f"level {level}, {percent(density)} of the weights"


def percent(fraction: float) -> str:
    """A density as a percentage of weights remaining: 100%, 51.2%, 6.87%, 0.0123%, 0%."""
    value = 100 * fraction
    if value <= 0:
        return "0%"
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else max(2, 2 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f}%"


def points(fraction: float, decimals: int = 2) -> str:
    """An error in percent, or a difference of errors in points, without its unit."""
    return "diverged" if math.isnan(fraction) else f"{100 * fraction:.{decimals}f}"


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def mean_and_std(statistic: Statistic | None, decimals: int = 2, *, tight: bool = False) -> str:
    """`1.40 ± 0.23`; without the deviation for one replicate; with a mark where some replicates diverged."""
    if statistic is None:
        return "–"
    text = points(statistic.mean, decimals)
    if statistic.std is not None:
        text += ("±" if tight else " ± ") + points(statistic.std, decimals)
    return text + (DIVERGED_MARK if statistic.n and statistic.diverged else "")


def listing(items: Sequence[object]) -> str:
    """`0`, `0 and 60`, `0, 60 and 200`."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1] if texts else "none"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending integers as `1–9, 11`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def count(number: int, noun: str) -> str:
    """`1 level`, `12 levels`, `62,400 steps`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def every(number: int, noun: str) -> str:
    """`the only level`, `all 12 levels`."""
    return f"the only {noun}" if number == 1 else f"all {count(number, noun)}"


def verb(number: int, one: str, many: str) -> str:
    """The form of a verb, or of a pronoun, after a number: `is` after 1, `are` after 0 and 12."""
    return one if number == 1 else many


def of_pairs(both: int, matching: int, what: str, neither: int, failing: int, otherwise: str) -> str:
    """`of 4 pairs that match 3 inside, of 1 that does not 1 outside`; `no pair matches` where there is none.

    Args:
        both, matching: pairs of levels that match, those of them that are `what` and all.
        neither, failing: pairs that do not match, those of them that are `otherwise` and all.
    """
    match = f"of {count(matching, 'pair')} that {verb(matching, 'matches', 'match')} {both} {what}"
    fail = f"of {failing} that {verb(failing, 'does', 'do')} not {neither} {otherwise}"
    if not matching:
        return f"no pair matches, {fail}"
    return f"{match}, {fail if failing else 'and every pair matches'}"


def in_unit(number: int, unit: str) -> str:
    """`1 mask`, `62,400 steps`, of a unit in the plural."""
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `12 min 05 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
