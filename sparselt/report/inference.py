"""Tests of a claim over replicates, by SciPy; each gives the text for the table and the p value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparselt.errors import SettingError


@dataclass(frozen=True)
class Test:
    """text: the test's name and statistic; n: replicates or pairs it rests on; p; mean: of what was tested."""

    text: str
    n: int
    p: float
    mean: float


def paired(first: Mapping[int, float], second: Mapping[int, float], alternative: str = "two-sided") -> Test:
    """Student's t on first − second, over the replicates that both have. alternative: `two-sided`, `greater`, `less`.

    Raises:
        SettingError: fewer than two common replicates.
    """
    common = sorted(k for k in first.keys() & second.keys() if math.isfinite(first[k]) and math.isfinite(second[k]))
    differences = [first[k] - second[k] for k in common]
    return _student(differences, "paired t", alternative)


def one_sample(values: Sequence[float], against: float = 0.0, alternative: str = "two-sided") -> Test:
    """Student's t on values − against.

    Raises:
        SettingError: fewer than two finite values.
    """
    return _student([value - against for value in values if math.isfinite(value)], "t", alternative)


def welch(first: Sequence[float], second: Sequence[float], alternative: str = "two-sided") -> Test:
    """Welch's t on mean(first) − mean(second), independent samples.

    Raises:
        SettingError: fewer than two finite values in either.
    """
    from scipy import stats

    first, second = ([v for v in values if math.isfinite(v)] for values in (first, second))
    if min(len(first), len(second)) < 2:
        raise SettingError(f"a test needs two replicates on each side, got {len(first)} and {len(second)}")
    mean = sum(first) / len(first) - sum(second) / len(second)
    if len({*first}) == len({*second}) == 1:
        return Test("Welch t, no spread", len(first) + len(second), _certain(mean, alternative), mean)
    found = stats.ttest_ind(first, second, equal_var=False, alternative=alternative)
    text = f"Welch t({found.df:.1f}) = {found.statistic:.2f}"
    return Test(text, len(first) + len(second), float(found.pvalue), mean)


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
    if len({*values}) == 1:
        return Test(f"{name}, no spread", len(values), _certain(mean, alternative), mean)
    found = stats.ttest_1samp(values, 0.0, alternative=alternative)
    return Test(f"{name}({len(values) - 1}) = {found.statistic:.2f}", len(values), float(found.pvalue), mean)


def _certain(mean: float, alternative: str) -> float:
    """The p value where replicates do not differ at all."""
    if mean == 0:
        return 1.0 if alternative == "two-sided" else 0.5
    return 0.0 if alternative == "two-sided" or (mean > 0) == (alternative == "greater") else 1.0
