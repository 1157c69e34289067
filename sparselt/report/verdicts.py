"""Verdicts over replicates, by the same rules in every section.

A finding agrees where the test supports it (p < 0.05 in its direction), does not agree where the data contradict it (as
significantly the other way), and cannot be seen at this scale otherwise, or with fewer than `REPLICATES` of them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparselt.report.data import Claim, Verdict
from sparselt.report.inference import equivalent, paired
from sparselt.report.wording import points

SIGNIFICANT = 0.05

REPLICATES = 3
"""The least number of replicates that any finding is judged by. Two leave a t test a single degree of freedom: what it
finds then is luck, one way or the other."""

TOO_FEW = "fewer than three replicates: not judged"
"""The statistic of what is not judged for their want."""

PAIRS_OF_LEVELS = "pairs of levels, those of one rewind step not independent"
"""What `coincidence` counts over."""

_MOSTLY = 0.9

Sample = Mapping[int, float]
"""A measurement by replicate."""


@dataclass(frozen=True)
class Judged:
    """A test of a finding: see `Claim`, whose last columns these are."""

    statistic: str
    n: int
    p: float | None
    verdict: Verdict

    def claim(self, paper: str, claim: str, here: str) -> Claim:
        """The finding with this verdict."""
        return Claim(paper, claim, here, self.statistic, self.n, self.p, self.verdict)


def lower(first: Sample, second: Sample) -> Judged:
    """Whether `first` is lower than `second`: a one-sided paired t test over the replicates that both have."""
    if _common(first, second) < REPLICATES:
        return too_few(_common(first, second))
    test, other = paired(first, second, "less"), paired(first, second, "greater")
    verdict = _verdict(test.p, other.p)
    return Judged(f"one-sided {test.text}", test.n, test.p, verdict)


def lower_than(values: Sample, limit: float) -> Judged:
    """Whether the mean of `values` is below a number that was fixed beforehand."""
    judged = lower(values, dict.fromkeys(values, limit))
    return dataclasses.replace(judged, statistic=judged.statistic.replace("paired t", "t"))


def not_higher(first: Sample, second: Sample, epsilon: float) -> Judged:
    """Whether the error `first` is higher than `second` by less than ε: a one-sided t test of the difference."""
    higher = {k: first[k] - second[k] for k in first.keys() & second.keys()}
    judged = lower_than(higher, epsilon)
    if judged.p is None:
        return judged
    text = f"{judged.statistic}, higher by less than the {epsilon_text(epsilon)}{significant(first, second)}"
    return dataclasses.replace(judged, statistic=text)


def equal(first: Sample, second: Sample, margin: float, margin_text: str) -> Judged:
    """Whether `first` and `second` differ by less than `margin`: two one-sided paired t tests.

    Contradicted where they differ significantly and by more than the margin. A difference from zero that is significant
    is said in the statistic.

    Args:
        margin: above zero; none is judged where it is not.
        margin_text: its value with its unit, and where it comes from.
    """
    if _common(first, second) < REPLICATES:
        return too_few(_common(first, second))
    if not margin > 0:
        return Judged("no margin above zero: not judged", _common(first, second), None, "cannot be seen at this scale")
    test, other = equivalent(first, second, margin), paired(first, second)
    apart = abs(other.mean) > margin and other.p < SIGNIFICANT
    text = f"two one-sided paired t, {margin_text}{significant(first, second)}"
    return Judged(text, test.n, test.p, _verdict(test.p, 0.0 if apart else 1.0))


def epsilon_text(epsilon: float) -> str:
    """The margin of errors that the papers call matching, for `equal`."""
    return f"margin ε = {points(epsilon)} points, the standard deviation of the dense error"


def only_if(judged: Judged, holds: bool, otherwise: str) -> Judged:
    """A finding that takes more than its test: where that does not hold it cannot be seen.

    Args:
        holds: what it takes besides.
        otherwise: said in the statistic where it does not hold.
    """
    if holds or judged.verdict != "agrees":
        return judged
    statistic = f"{judged.statistic}; {otherwise}"
    return dataclasses.replace(judged, statistic=statistic, verdict="cannot be seen at this scale")


def rising_together(pairs: Mapping[int, Sequence[tuple[float, float]]]) -> Judged:
    """Whether two measurements rise together within replicates: their correlation for repeated measures (Bland and
    Altman 1995, "Calculating correlation coefficients with repeated observations"), one-sided.

    Args:
        pairs: by replicate, the two values at each of its conditions.
    """
    from scipy import stats

    centred: list[tuple[float, float]] = []
    finite_points = [[pair for pair in own if all(map(math.isfinite, pair))] for own in pairs.values()]
    replicates = [finite for finite in finite_points if finite]
    for finite in replicates:
        means = [math.fsum(values) / len(finite) for values in zip(*finite, strict=True)]
        centred += [(x - means[0], y - means[1]) for x, y in finite]
    freedom = len(centred) - len(replicates) - 1
    squares = [math.fsum(pair[k] ** 2 for pair in centred) for k in (0, 1)]
    if len(replicates) < REPLICATES:
        return too_few(len(replicates))
    if freedom < 1 or not all(squares):
        return Judged("too few values that differ", len(centred), None, "cannot be seen at this scale")
    r = math.fsum(x * y for x, y in centred) / math.sqrt(squares[0] * squares[1])
    r = min(1.0, max(-1.0, r))
    t = r * math.sqrt(freedom / (1 - r * r)) if abs(r) < 1 else math.copysign(math.inf, r)
    p = float(stats.t.sf(t, freedom))
    return Judged(f"correlation within replicates, r = {r:.2f}", len(centred), p, _verdict(p, 1 - p))


def coincidence(cells: Sequence[int], doubtful: Sequence[int], of: str, replicates: int) -> Judged:
    """Whether one thing holds if and only if another does: Fisher's exact test, one-sided, of a table of counts.

    Agrees where p < 0.05 and at least 9 of 10 coincide; does not agree where a one-sided binomial test says that fewer
    than 9 of 10 do (p < 0.05). A verdict that is another one without the doubtful cases cannot be seen. What is counted
    should be independent; where it is not, p is smaller than it should be.

    Args:
        cells: how often both hold, the first alone, the second alone, neither.
        doubtful: how many of each may as well belong elsewhere.
        of: what is counted, such as `pairs of levels`.
        replicates: how many the counted means are taken over.
    """
    if replicates < REPLICATES:
        return too_few(sum(cells))
    p, against, found = _coincide(cells)
    text = (
        f"Fisher's exact test, one-sided, over {of}; if and only if: at least 9 of 10 (our limit), fewer by a binomial "
        f"test with p = {against:.2g}"
    )
    certain = [count - few for count, few in zip(cells, doubtful, strict=True)]
    without = _coincide(certain)[2] if sum(certain) else "cannot be seen at this scale"
    if without != found:
        text += f"; without those in doubt {certain[0] + certain[3]} of {sum(certain)} coincide: another verdict"
        found = "cannot be seen at this scale"
    return Judged(text, sum(cells), p, found)


def in_doubt(doubtful: Sequence[int], more: str = "") -> str:
    """How many of the pairs are in doubt, to be added to what they come to; empty for none. doubtful: as there."""
    hang = "pair hangs" if sum(doubtful) == 1 else "pairs hang"
    exceptions = doubtful[1] + doubtful[2]
    if not sum(doubtful):
        return ""
    reason = f"on a level within a standard error of the limit{more}"
    return f"; {sum(doubtful)} {hang} {reason}, {exceptions} of them exceptions"


def _coincide(cells: Sequence[int]) -> tuple[float, float, Verdict]:
    """p of Fisher's test, p of the binomial test that fewer than 9 of 10 coincide, and the verdict."""
    from scipy import stats

    both, first_only, second_only, neither = cells
    p = float(stats.fisher_exact([[both, first_only], [second_only, neither]], alternative="greater").pvalue)
    against = float(stats.binomtest(both + neither, sum(cells), _MOSTLY, alternative="less").pvalue)
    return p, against, _verdict(p if both + neither >= _MOSTLY * sum(cells) else 1.0, against)


def significant(first: Sample, second: Sample, name: str = "the difference itself") -> str:
    """To be added to the statistic of an equality: whether the two differ by a two-sided paired t test all the same."""
    if _common(first, second) < REPLICATES:
        return ""
    test = paired(first, second)
    return f"; {name} is significant, p = {test.p:.2g}" if test.p < SIGNIFICANT else ""


def too_few(n: int) -> Judged:
    """What fewer than `REPLICATES` replicates come to."""
    return Judged(TOO_FEW, n, None, "cannot be seen at this scale")


def _verdict(p: float, p_against: float) -> Verdict:
    if p < SIGNIFICANT:
        return "agrees"
    return "does not agree" if p_against < SIGNIFICANT else "cannot be seen at this scale"


def _common(first: Sample, second: Sample) -> int:
    return sum(math.isfinite(first[k]) and math.isfinite(second[k]) for k in first.keys() & second.keys())
