"""How many weights each layer keeps when a fraction of them is pruned: globally, by layer, or by Erdős–Rényi-Kernel.

Plain arithmetic on sizes and counts. It needs no torch, so that a plan can be checked before anything heavy loads.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Literal, get_args

from sparselt.errors import SettingError

Scope = Literal["global", "layerwise", "erk"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Rule = Literal["exact", "open_lth"]


def check_fraction(fraction: float) -> None:
    """Raises a SettingError unless 0 < fraction < 1."""
    if not (isinstance(fraction, numbers.Real) and 0 < fraction < 1):
        raise SettingError(
            f"pruning fraction is {fraction!r}; expected a number between 0 and 1, such as 0.2 for 20% a level"
        )


def check_scope(scope: str) -> None:
    """Raises a SettingError unless `scope` is one of `SCOPES`."""
    if scope not in SCOPES:
        raise SettingError(f"pruning scope is {scope!r}; expected 'global', 'layerwise' or 'erk'")


def check_rule(rule: str, scope: str) -> None:
    """Raises a SettingError unless `rule` is a pruning rule that goes with `scope`, see `magnitude_prune`."""
    if rule not in get_args(Rule):
        raise SettingError(f"pruning rule is {rule!r}; expected 'exact' or 'open_lth'")
    if rule == "open_lth" and scope != "global":
        raise SettingError(f"pruning rule 'open_lth' goes with scope 'global', got {scope!r}; choose rule 'exact'")


def count_to_prune(fraction: float, live: int) -> int:
    """⌈fraction · live⌉, at least one weight if any is alive."""
    # Rounded before the ceiling: 0.1 · 30 is 3.0000000000000004 in floating point.
    return max(min(live, 1), math.ceil(round(fraction * live, 6)))


def weights_left(
    sizes: Sequence[int], fraction: float, levels: int, scope: Scope = "global", rule: Rule = "exact"
) -> int:
    """The number of weights left in a dense network with layers of these sizes after `levels` prunings.

    No two magnitudes tie.
    """
    live = list(sizes) if scope == "layerwise" else [sum(sizes)]
    for _ in range(levels):
        live = [number - count_to_prune(fraction, number) - (rule == "open_lth") for number in live]
    return sum(live)


def counts_to_keep(
    shapes: Sequence[Sequence[int]],
    live: Sequence[int],
    fraction: float,
    scope: Scope,
    *,
    start: Sequence[int] | None = None,
) -> list[int]:
    """The number of weights that stay: one count for all layers (`global`), or one for each (`layerwise`, `erk`).

    `layerwise` prunes the fraction in each layer. `global` and `erk` prune it of all layers together, and `erk` then
    distributes what stays with `erk_counts`.

    Args:
        shapes: of each layer's weight.
        live: live weights of each layer now.
        fraction: share of the weights in `start` to prune.
        start: live weights of each layer before the first of several rounds; `live` unless given.
    """
    start = live if start is None else start
    if scope == "layerwise":
        return [number - count_to_prune(fraction, number) for number in start]
    total = sum(start) - count_to_prune(fraction, sum(start))
    return [total] if scope == "global" else erk_counts(shapes, live, total)


def erk_counts(shapes: Sequence[Sequence[int]], live: Sequence[int], total: int) -> list[int]:
    """Distributes `total` weights over the layers by Erdős–Rényi-Kernel (Evci et al. 2020, RigL, section 3).

    A layer's density is ε · (sum of its dimensions) / (product of its dimensions), so it keeps a number of weights
    proportional to the sum of its dimensions. If that is more than its live weights, the layer keeps them all, and ε is
    computed again for the other layers. So in a dense network such a layer stays dense, as in the paper, and in a
    pruned network no layer grows.

    Args:
        shapes: of each layer's weight.
        live: live weights of each layer: the most that it can keep.
        total: weights to keep, at most the sum of `live`.

    Returns:
        One count a layer. They sum to exactly `total`, see `shares`.
    """
    asked = [sum(shape) or 1 for shape in shapes]  # a weight without dimensions is one number
    counts = list(live)
    free = list(range(len(live)))
    while free:
        budget = total - sum(live) + sum(live[i] for i in free)
        scale = sum(asked[i] for i in free)
        # Integers only: the counts must not depend on how a processor rounds.
        full = {i for i in free if asked[i] * budget >= live[i] * scale}
        if full:
            free = [i for i in free if i not in full]
            continue
        for i, count in zip(free, shares(budget, [asked[i] for i in free]), strict=True):
            counts[i] = count
        break
    return counts


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that sum to `total` and are proportional to `weights` up to rounding.

    Shares are rounded down; the largest remainders, in equal cases the first, get one more.
    """
    parts = [divmod(total * weight, sum(weights)) for weight in weights]
    counts = [part for part, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: -parts[i][1])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
