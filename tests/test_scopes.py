import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparselt.errors import SettingError
from sparselt.models import prunable_shapes
from sparselt.scopes import SCOPES, check_rule, check_scope, counts_to_keep, erk_counts, shares, weights_left

shapes = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=4), min_size=1, max_size=6)


def erk_densities(sizes: list[tuple[int, ...]], density: Fraction) -> list[Fraction]:
    """Independent, as the paper tells it: densities by a loop that makes the layer of highest density dense."""
    raw = [Fraction(sum(shape), math.prod(shape)) for shape in sizes]
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(sizes)) if i not in dense]
        wanted = density * sum(map(math.prod, sizes)) - sum(math.prod(sizes[i]) for i in dense)
        epsilon = wanted / sum(raw[i] * math.prod(sizes[i]) for i in rest) if rest else Fraction(0)
        densest = max(rest, key=lambda i: raw[i], default=None)
        if densest is None or epsilon * raw[densest] <= 1:
            return [Fraction(1) if i in dense else epsilon * raw[i] for i in range(len(sizes))]
        dense.add(densest)


@settings(max_examples=200, deadline=None)
@given(shapes, st.floats(0, 1))
def test_erk_of_a_dense_network_has_the_papers_densities_within_a_weight(sizes, share):
    live = [math.prod(shape) for shape in sizes]
    total = round(share * sum(live))
    counts = erk_counts(sizes, live, total)
    assert sum(counts) == total
    for count, size, density in zip(counts, live, erk_densities(sizes, Fraction(total, sum(live))), strict=True):
        assert abs(count - density * size) < 1


@settings(max_examples=200, deadline=None)
@given(shapes, st.data())
def test_erk_of_a_pruned_network_never_grows_a_layer_and_keeps_the_total(sizes, data):
    live = [data.draw(st.integers(0, math.prod(shape))) for shape in sizes]
    total = data.draw(st.integers(0, sum(live)))
    counts = erk_counts(sizes, live, total)
    assert sum(counts) == total and all(0 <= count <= alive for count, alive in zip(counts, live, strict=True))
    # Layers that are not capped stand to each other as the sums of their dimensions, within a weight.
    free = [(c, sum(s)) for c, s, alive in zip(counts, sizes, live, strict=True) if c < alive]
    assert all((c - 1) / a < (d + 1) / b for c, a in free for d, b in free)


def test_erk_keeps_small_layers_dense_and_prunes_wide_ones():
    sizes = list(prunable_shapes("resnet8", 10, 1).values())
    live = [math.prod(shape) for shape in sizes]
    counts = erk_counts(sizes, live, sum(live) // 10)
    densities = [count / size for count, size in zip(counts, live, strict=True)]
    assert densities[0] > 0.1 > densities[live.index(max(live))] > 0
    assert counts_to_keep(sizes, live, 0.9, "erk") == erk_counts(sizes, live, sum(live) - math.ceil(0.9 * sum(live)))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_shares_sum_to_the_total_and_are_proportional_within_one(total, weights):
    assume(sum(weights))
    counts = shares(total, weights)
    assert sum(counts) == total
    assert all(abs(c - total * w / sum(weights)) < 1 for c, w in zip(counts, weights, strict=True))


def test_an_erk_network_has_as_many_weights_left_as_a_global_one():
    assert weights_left([30, 700, 20], 0.2, 5, "erk") == weights_left([30, 700, 20], 0.2, 5, "global")


def test_open_lths_rule_leaves_a_weight_less_at_each_level():
    assert [weights_left([100], 0.2, levels, rule="open_lth") for levels in (1, 2)] == [79, 79 - 16 - 1]


def test_an_unknown_rule_is_refused():
    with pytest.raises(SettingError, match="rule is 'strict'; expected 'exact' or 'open_lth'"):
        check_rule("strict", "global")


def test_an_unknown_scope_is_refused_and_the_known_ones_named():
    with pytest.raises(SettingError, match="'filter'; expected 'global', 'layerwise' or 'erk'"):
        check_scope("filter")
    for scope in SCOPES:
        check_scope(scope)
