"""Tests of a claim over replicates, by SciPy; each gives the text for the table and the p value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparselt.errors import SettingError

_ROUNDING = 1e-9  # equal differences of fractions, rounded, differ by less


@dataclass(frozen=True)
class Test:
    """text: the test's name and statistic; n: replicates or pairs it rests on; p; mean: of what was tested."""

    text: str
    n: int
    p: float
    mean: float


def paired(first: Mapping[int, float], second: Mapping[int, float], alternative: str = "two-sided") -> Test:
    """Student's t on first − second, over the replicates that both have; a sign test where all differ by the same.

    Args:
        alternative: `two-sided`, `greater`, `less`.

    Raises:
        SettingError: fewer than two common replicates.
    """
    common = sorted(k for k in first.keys() & second.keys() if math.isfinite(first[k]) and math.isfinite(second[k]))
    differences = [first[k] - second[k] for k in common]
    return _student(differences, "paired t", alternative)


def equivalent(first: Mapping[int, float], second: Mapping[int, float], margin: float) -> Test:
    """Two one-sided paired t tests: p is that of |mean(first − second)| ≥ margin, so a small one shows equality.

    Raises:
        SettingError: fewer than two common replicates, or a margin that is not above zero.
    """
    if not margin > 0:
        raise SettingError(f"margin is {margin}; expected a difference above zero that would still count as equal")
    common = sorted(first.keys() & second.keys())
    differences = [first[k] - second[k] for k in common if math.isfinite(first[k]) and math.isfinite(second[k])]
    low = _student([d + margin for d in differences], "", "greater")
    high = _student([d - margin for d in differences], "", "less")
    mean = sum(differences) / len(differences)
    return Test(f"two one-sided paired t, margin {100 * margin:.2f} points", len(differences), max(low.p, high.p), mean)


def _student(values: Sequence[float], name: str, alternative: str) -> Test:
    from scipy import stats

    if len(values) < 2:
        raise SettingError(f"a test needs at least two replicates, got {len(values)}")
    mean = sum(values) / len(values)
    if max(values) - min(values) <= _ROUNDING * abs(mean):
        # Student's t is not defined; that all have one sign is as likely as so many heads.
        return Test("sign test, no spread", len(values), _sign_test(mean, len(values), alternative), mean)
    found = stats.ttest_1samp(values, 0.0, alternative=alternative)
    return Test(f"{name}({len(values) - 1}) = {found.statistic:.2f}", len(values), float(found.pvalue), mean)


def _sign_test(mean: float, n: int, alternative: str) -> float:
    """The p value where all of n replicates differ by the same `mean`."""
    if mean == 0 or not (alternative == "two-sided" or (mean > 0) == (alternative == "greater")):
        return 1.0
    return (2 if alternative == "two-sided" else 1) * 0.5**n
