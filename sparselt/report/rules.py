"""How findings are judged: what is tested, with which limit, at which networks.

The rules are fixed before the data that they judge is seen. `tests/frozen/rules.json` holds the digest of each
version: whoever changes a rule raises `VERSION`, and judges by it runs of seeds that nobody has looked at yet. What
changed from version to version stands in docs/results/README.md.

**A verdict** rests on two p-values over replicates: p, the chance of measurements at least so favourable to the
sentence if it were false, and the same of its contrary. *Agrees*: p < 0.05. *Does not agree*: the contrary has p <
0.05. *Cannot be seen at this scale*: neither, or both. *Not judged*: no test was made, and the statistic says why.
Fewer than three replicates are not judged: two leave a t test one degree of freedom. A replicate that diverged is left
out.

**Less, more, fewer, lower.** A one-sided paired t test of the difference in each replicate (`lower`). Where all
replicates differ by the same, a sign test.

**Match, similar, alone.** Equivalence, on both sides: two one-sided t tests show that the mean difference is within ε
(`within`), the standard deviation of the dense error, which is what Unmasking calls matching; ε is estimated too, and
taken as it is. An error that is lower by more than ε does not match either. Contradicted where the difference is
beyond ε by a one-sided test. That a single *level* matches, which the tables mark and "if and only if" counts, is the
papers' definition and no test: its mean error is at most the dense mean + ε (`matches`). "Does not match" is an error
that is higher by more than ε (`above`).

**Without loss, no more than.** These words speak of one side: one one-sided t test that the difference is less than
the margin (`below`); errors have the margin ε, angles 5 degrees.

**No barrier, connected.** Unmasking's Def. A.1 allows a line a rise up to ε: the mean barrier is below ε by a
one-sided t test (`no_barrier`). The test against the 2 points of Linear Mode Connectivity stands beside it and does
not judge. *Stable to SGD noise* is that paper's own notion and is judged by its 2 points: below them where the
sentence says stable, above them where it says unstable. Each claim has one limit.

**If and only if.** Pairs of levels are counted on means over replicates. The rewind step decides much of both sides,
so the exact test (Fisher's, one-sided) is made within each rewind step and combined (`coincidence`). A step at which
all levels match, or none, tells nothing. The sentence needs p < 0.05 and both or neither at 9 of 10 pairs at least
(our limit; fewer by a binomial test contradict it). No pair is left out as doubtful. Pairs of neighbouring levels are
not independent, so p is smaller than it should be.

**Chance.** Masks have two chances: that of their density, and the higher one of their layers' densities. A sentence on
chance has to hold against both.

**A number in the sentence** is the limit: "30% less computation" is tested against 70%, not against 100%. A number in
brackets is what the paper saw in its own network, and is not tested.

**And.** A sentence that says several things agrees where each of its tests does: p is the largest of theirs. It is
contradicted where one part is, after Bonferroni's correction for their number (`all_of`).

**Together; the later, the more.** Two measurements that rise together: the correlation for repeated measures, within
replicates (`rising_together`). Its contrary is that they fall together, or that from a rewind step to the next one
rises and the other falls, each by a one-sided test, after Bonferroni's correction. *The later, the more*: each rewind
step against the one before it, all of them. An association of what also follows the level has to hold at a given level
too.

**Where.** A claim on one density is judged at the measured level whose density is nearest to 1/6 on a log scale
(`judged_level`), where Frankle et al. judge ResNet-20 (16.7% in Stabilizing, 16.8% in Linear Mode Connectivity); one
on a chain of levels down to that level; one on a whole trade-off over all densities, averaged in each replicate. It is
judged at the setting's `control_rewind_step`, or, where that was not measured, at the last step measured
(`judged_step`); at step 0 where the sentence says initialization.

**Many tests.** The verdict of a row is that of its own p: it should not depend on what else a page holds. Beside it
stands p corrected for all tests of the page, by Holm (1979) for any error among them and by Benjamini and Hochberg
(1995) for the share of errors among those that agree (`adjusted`).
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparselt.report import statistic
from sparselt.report.data import Claim, Data, Verdict
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import p_text, points

VERSION = 2
SIGNIFICANT = 0.05
REPLICATES = 3
DENSITY = 1 / 6

_MOSTLY = 0.9
_EQUAL = 1e-9  # equal differences of fractions, rounded, differ by less
_ROUNDING = 1e-12  # equal means of fractions, summed in different ways, differ by less


@dataclass(frozen=True)
class Limit:
    """A number that measurements are held against, and how the statistic names it. NaN: it is not known."""

    value: float
    text: str = ""


STABLE = Limit(0.02, "2 points")
"""Frankle et al. 2020 call a network stable when its error rises by less along the line between two copies."""

NEAR_CHANCE = Limit(0.1, "a tenth of the way, ours")
"""Masks are *not much more similar than chance* where (Jaccard − chance) / (1 − chance) is below; the abstract of Movva
et al. gives no number."""

AS_STABLE = Limit(5.0, "5 degrees, ours")
"""How much more stable IMP's subnetworks may be by an angle and still be no more stable than random ones, ours:
Stabilizing has 0.3 degrees for ResNet-20 and data order where IMP fails, 52 to 60 where it succeeds."""

LESS_COMPUTATION = Limit(0.7, "70%")
"""Unmasking, of adaptive pruning: 30% less."""

MEDIUM = (0.1, 0.5)
"""Weights remaining at *medium sparsity* (Maene et al.), ours."""

_ZERO = Limit(0.0)


@dataclass(frozen=True)
class Judged:
    """The test of a sentence.

    Args:
        statistic: the test and its value, or why none was made.
        n: replicates or pairs that it rests on.
        p: of the sentence; None where it is not judged.
        against: p of its contrary.
    """

    statistic: str
    n: int
    p: float | None = None
    against: float = 1.0

    @property
    def verdict(self) -> Verdict:
        """See the module."""
        if self.p is None:
            return "not judged"
        if (self.p < SIGNIFICANT) == (self.against < SIGNIFICANT):
            return "cannot be seen at this scale"
        return "agrees" if self.p < SIGNIFICANT else "does not agree"

    def claim(self, paper: str, claim: str, here: str) -> Claim:
        """The finding with this verdict."""
        contrary = f"; the contrary: {p_text(self.against)}" if self.against < SIGNIFICANT else ""
        return Claim(paper, claim, here, self.statistic + contrary, self.n, self.p, self.verdict)


def below(values: Mapping[int, float], limit: Limit = _ZERO) -> Judged:
    """Whether the mean of `values`, by replicate, is below the limit: a one-sided t test."""
    return _one_sided(values, limit, ("less", "greater"))


def above(values: Mapping[int, float], limit: Limit = _ZERO) -> Judged:
    """Whether the mean of `values`, by replicate, is above the limit: a one-sided t test."""
    return _one_sided(values, limit, ("greater", "less"))


def lower(first: Mapping[int, float], second: Mapping[int, float]) -> Judged:
    """Whether `first` is lower than `second`: a one-sided paired t test over the replicates that both have."""
    judged = below(Values(first) - Values(second))
    return replace(judged, statistic=judged.statistic.replace("one-sided t", "one-sided paired t"))


def within(differences: Mapping[int, float], margin: Limit) -> Judged:
    """Whether the mean of `differences`, by replicate, is within the margin either way: two one-sided t tests."""
    found = list(Values(differences).finite.values())
    if reason := _unjudged(len(found), margin):
        return Judged(reason, len(found))
    over, under = ([value + side * margin.value for value in found] for side in (1, -1))
    p = max(student(over, "greater")[1], student(under, "less")[1])
    against = min(student(over, "less")[1], student(under, "greater")[1])
    zero = student(found, "two-sided")[1]
    apart = f"; apart from zero, {p_text(zero)}" if zero < SIGNIFICANT else ""
    return Judged(f"two one-sided t, margin {margin.text}{apart}", len(found), p, against)


def no_barrier(barriers: Mapping[int, float], limit: Limit) -> Judged:
    """Whether the mean of `barriers`, fractions by replicate, is below ε; the 2 points beside it do not judge."""
    judged, beside = below(barriers, limit), below(barriers, STABLE)
    if judged.p is None or beside.p is None:
        return judged
    return replace(judged, statistic=f"{judged.statistic} (below {STABLE.text}: {p_text(beside.p)})")


def all_of(*parts: Judged) -> Judged:
    """A sentence that says several things, each with its test."""
    if len(parts) == 1:
        return parts[0]
    n = min(part.n for part in parts)
    for part in parts:
        if part.p is None:
            return Judged(part.statistic, n)
    p = [part.p for part in parts if part.p is not None]
    texts = [f"{part.statistic}, {p_text(own)}" for part, own in zip(parts, p, strict=True)]
    return Judged(" and ".join(texts), n, max(p), min(1.0, len(parts) * min(part.against for part in parts)))


def rising_together(first: Sequence[Values], second: Sequence[Values]) -> Judged:
    """Whether two measurements rise together from condition to condition, within replicates: their correlation for
    repeated measures (Bland and Altman 1995, "Calculating correlation coefficients with repeated observations").

    Args:
        first, second: at each condition, in order, the values by replicate.
    """
    from scipy import stats

    pairs: dict[int, list[tuple[float, float]]] = {}
    for x, y in zip(first, second, strict=True):
        for k in x.finite.keys() & y.finite.keys():
            pairs.setdefault(k, []).append((x[k], y[k]))
    centred: list[tuple[float, float]] = []
    for own in pairs.values():
        means = [math.fsum(values) / len(own) for values in zip(*own, strict=True)]
        centred += [(x - means[0], y - means[1]) for x, y in own]
    freedom = len(centred) - len(pairs) - 1
    squares = [math.fsum(pair[k] ** 2 for pair in centred) for k in (0, 1)]
    if reason := _unjudged(len(pairs)):
        return Judged(reason, len(pairs))
    if freedom < 1 or not all(squares):
        return Judged("too few values that differ", len(centred))
    r = math.fsum(x * y for x, y in centred) / math.sqrt(squares[0] * squares[1])
    r = min(1.0, max(-1.0, r))
    t = r * math.sqrt(freedom / (1 - r * r)) if abs(r) < 1 else math.copysign(math.inf, r)
    p = float(stats.t.sf(t, freedom))
    contrary = [1 - p]
    steps = [[after - before for before, after in itertools.pairwise(of)] for of in (first, second)]
    for x, y in zip(*steps, strict=True):
        apart = all_of(above(x), below(y)), all_of(below(x), above(y))
        contrary += [both.p for both in apart if both.p is not None]
    against = min(1.0, len(contrary) * min(contrary))
    but = ", but from one step to the next one rises and the other falls" if against < SIGNIFICANT > p else ""
    return Judged(f"correlation within replicates, r = {r:.2f}{but}", len(centred), p, against)


def coincidence(tables: Sequence[Sequence[int]], replicates: int) -> Judged:
    """Whether one thing holds of pairs of levels if and only if another does.

    Args:
        tables: for each rewind step, at how many pairs both hold, the first alone, the second alone, neither.
        replicates: how many the counted means are taken over.
    """
    import numpy as np
    from scipy import stats

    both, first, second, neither = (sum(cells) for cells in zip(*tables, strict=True))
    pairs, agreeing = both + first + second + neither, both + neither
    if reason := _unjudged(replicates):
        return Judged(reason, pairs)
    chances = np.ones(1)  # of so many pairs with both, summed over the rewind steps, whose margins are given
    for a, b, c, d in tables:
        counts = np.arange(a + min(b, c) + 1)
        chances = np.convolve(chances, stats.hypergeom.pmf(counts, a + b + c + d, a + b, a + c))
    p = min(1.0, float(chances[both:].sum()))
    against = float(stats.binomtest(agreeing, pairs, _MOSTLY, alternative="less").pvalue)
    text = f"Fisher's exact test within rewind steps, one-sided, {p_text(p)}"
    if agreeing < _MOSTLY * pairs:
        text, p = f"{text}, but both or neither at fewer than 9 of 10 pairs (our limit)", 1.0
    return Judged(text, pairs, p, against)


def student(values: Sequence[float], alternative: str) -> tuple[str, float]:
    """Student's t test that the mean of two values or more is `less` or `greater` than zero, or neither (`two-sided`):
    its text and p; a sign test where all values are the same."""
    from scipy import stats

    mean = math.fsum(values) / len(values)
    if max(values) - min(values) <= _EQUAL * abs(mean):
        # Student's t is not defined; that all have one sign is as likely as so many heads.
        wanted = mean != 0 and (alternative == "two-sided" or (mean > 0) == (alternative == "greater"))
        return "sign test, no spread", 0.5 ** (len(values) - (alternative == "two-sided")) if wanted else 1.0
    found = stats.ttest_1samp(values, 0.0, alternative=alternative)
    return f"t({len(values) - 1}) = {found.statistic:.2f}", float(found.pvalue)


def adjusted(p: Sequence[float]) -> list[tuple[float, float]]:
    """Each p corrected for their number: by Holm, and by Benjamini and Hochberg."""
    from scipy import stats

    if not p:
        return []
    holm, largest = [1.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        holm[place] = largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
    return list(zip(holm, map(float, stats.false_discovery_control(p)), strict=True))


def dense_errors(data: Data) -> Values:
    """Test errors of all dense networks of a run at the setting's own values, whichever experiment asked for them."""
    return data.values(variant="dense", metric="test_error", level=0, condition={})


def epsilon(dense: Statistic) -> Limit:
    """ε of dense errors; unknown where they have no standard deviation above zero, or one diverged."""
    value = dense.epsilon or math.nan
    return Limit(value, f"ε = {points(value)} points")


def matches(error: Statistic, dense: Statistic) -> bool | None:
    """Whether a mean error matches the dense ones; not where a replicate diverged. None where ε is unknown."""
    return None if dense.limit is None else not error.diverged and error.mean <= dense.limit + _ROUNDING


def allowed(rise: Statistic, limit: float) -> bool | None:
    """Whether a mean rise of the error is at most the limit; not where a replicate diverged. None without any."""
    return None if not rise.n + rise.diverged else not rise.diverged and rise.mean <= limit + _ROUNDING


def judged_level(densities: Mapping[int, float]) -> int:
    """The level at which a claim is judged, of these with their densities in (0, 1]; 0 if there is none above it."""
    pruned = [level for level in sorted(densities, reverse=True) if level > 0]
    return min(pruned, key=lambda level: round(abs(math.log(densities[level] / DENSITY)), 9), default=0)


def judged_step(data: Data, steps: Iterable[int | None]) -> int:
    """The rewind step at which a claim is judged, of these; 0 without any."""
    measured = sorted({step for step in steps if step is not None})
    declared = {name: value for name, value, _ in data.record.get("protocol", ())}.get("control_rewind_step")
    return declared if declared in measured else max(measured, default=0)


def digest() -> str:
    """Of the rules and the statistics that they rest on: 16 digits of the SHA-256 of their source."""
    source = b"".join(Path(path).read_bytes() for path in (__file__, statistic.__file__))
    return hashlib.sha256(source).hexdigest()[:16]


def _one_sided(values: Mapping[int, float], limit: Limit, sides: tuple[str, str]) -> Judged:
    found = [value - limit.value for value in Values(values).finite.values()]
    if reason := _unjudged(len(found), limit):
        return Judged(reason, len(found))
    (text, p), (_, against) = (student(found, side) for side in sides)
    named = f", {'below' if sides[0] == 'less' else 'above'} {limit.text}" if limit.text else ""
    return Judged(f"one-sided {text}{named}", len(found), p, against)


def _unjudged(replicates: int, limit: Limit = _ZERO) -> str:
    """Why so many replicates are not judged by the limit; empty if they are."""
    if replicates < REPLICATES:
        return "fewer than three replicates"
    return "ε is not known: it takes dense errors that differ, none of them diverged" if math.isnan(limit.value) else ""
