"""magnitude_threshold and its mask on the CPU against sorting, as torch operators, and their Triton kernels."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_cases import arranged, drawn_mask, kinds_of_mask, memory, shapes

from sparselt.kernels import magnitude_mask, magnitude_threshold
from sparselt.kernels.magnitude import cpu, reference

quick = settings(max_examples=60, deadline=None, derandomize=True)
NAN, INF = float("nan"), float("inf")
SPECIAL = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1e-42, -1e-42, 1.0, -1.0, 3.4e38])
kinds = st.sampled_from(["normal", "ties", "special", "all equal", "every exponent"])
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.float16])
pytestmark = pytest.mark.usefixtures("poisoned_outputs")


def drawn(shape, kind: str, generator: torch.Generator) -> torch.Tensor:
    weight = torch.randn(shape, generator=generator)
    if kind == "ties":
        return (2 * weight).round() / 16
    if kind == "special":
        return SPECIAL[torch.randint(0, len(SPECIAL), shape, generator=generator)]
    if kind == "every exponent":
        return torch.ldexp(weight, torch.randint(-140, 120, shape, generator=generator))
    return torch.full_like(weight, -0.5) if kind == "all equal" else weight


def network(shapes, kind="normal", mask="random", order="contiguous", dtype=torch.float32, seed=0):
    """Weights and masks, every third layer without one."""
    generator = torch.Generator().manual_seed(seed)
    weights = [arranged(drawn(s, kind, generator).to(dtype), order) for s in shapes]
    masks = [None if i % 3 == 2 else drawn_mask(s, mask, generator) for i, s in enumerate(shapes)]
    return weights, masks


def live_counts(weights, masks) -> list[int]:
    return [w.numel() if m is None else int(m.sum()) for w, m in zip(weights, masks, strict=True)]


def sorted_magnitudes(weights, masks) -> np.ndarray:
    live = [(w if m is None else w[m]).float().abs().flatten() for w, m in zip(weights, masks, strict=True)]
    return np.sort(torch.cat(live).numpy())


@quick
@given(shapes, kinds, kinds_of_mask, memory, dtypes, st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_threshold_and_mask_are_those_of_sorting(shapes, kind, mask, order, dtype, share, layerwise, seed):
    weights, masks = network(shapes, kind, mask, order, dtype, seed)
    groups = [[i] for i in range(len(shapes))] if layerwise else [list(range(len(shapes)))]
    live = live_counts(weights, masks)
    counts = [round(share * sum(live[i] for i in group)) for group in groups]
    scope = "layerwise" if layerwise else "global"
    found = magnitude_threshold(weights, masks, counts if layerwise else counts[0], scope=scope)
    kept, again = magnitude_mask(weights, masks, counts if layerwise else counts[0], scope=scope)
    assert found.value.shape == found.ties.shape == ((len(shapes),) if layerwise else ())
    for number, (values, ties) in enumerate(zip(found.value.view(-1), found.ties.view(-1), strict=True)):
        some, theirs = [weights[i] for i in groups[number]], [masks[i] for i in groups[number]]
        magnitudes, count = sorted_magnitudes(some, theirs), counts[number]
        expected = magnitudes[count - 1] if count else -np.inf
        np.testing.assert_array_equal(values.numpy(), expected)
        below = ~np.isnan(magnitudes) if np.isnan(expected) else magnitudes < expected
        assert int(ties) == (count - below.sum() if count else 0)
        answers = reference.keep(some, theirs, count)
        assert all(torch.equal(kept[i], answer) for i, answer in zip(groups[number], answers, strict=True))
    for first, second in zip(found, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    assert found.live.tolist() == live
    for i, (w, m) in enumerate(zip(weights, masks, strict=True)):
        assert int(found.not_finite[i]) == int((~w.float().isfinite() & (True if m is None else m)).sum())
        assert kept[i].is_contiguous() and kept[i].dtype == torch.bool


@quick
@given(shapes, kinds, kinds_of_mask, st.floats(0, 1), st.integers(0, 99))
def test_open_lths_rule_keeps_what_is_strictly_greater(shapes, kind, mask, share, seed):
    weights, masks = network(shapes, kind, mask, seed=seed)
    live = sum(live_counts(weights, masks))
    assume(live > 0)
    count = min(int(share * live), live - 1)
    kept, found = magnitude_mask(weights, masks, count, rule="open_lth")
    threshold = sorted_magnitudes(weights, masks)[count]
    np.testing.assert_array_equal(found.value.numpy(), threshold)
    if not np.isnan(threshold):  # there open_lth keeps nothing, and here NaN is above every number
        for w, m, k in zip(weights, masks, kept, strict=True):
            assert torch.equal(k, ((w.abs() > float(threshold)) | w.isnan()) & (True if m is None else m))


@pytest.mark.parametrize("few", [0, 1 << 40], ids=["two passes", "three passes"])
def test_any_number_of_threads_gives_the_same(monkeypatch, few):
    weights, masks = network([(3001,), (7, 9), (0,), (64, 33)], "ties")
    expected = magnitude_mask(weights, masks, 1234)
    threads = torch.get_num_threads()
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 1)
    monkeypatch.setattr(cpu, "FEW", few)
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            kept, found = magnitude_mask(weights, masks, 1234)
            assert all(torch.equal(x, y) for x, y in zip(kept, expected[0], strict=True))
            assert all(torch.equal(x, y) for x, y in zip(found, expected[1], strict=True))
    finally:
        torch.set_num_threads(threads)


def test_exactly_so_many_go_and_the_first_of_equal_ones():
    weights = [torch.tensor([[2.0, -1.0], [1.0, 0.5]]), torch.tensor([1.0, 1.0, 3.0])]
    kept, found = magnitude_mask(weights, None, 3)
    assert found.value == 1.0 and found.ties == 2
    assert [k.tolist() for k in kept] == [[[True, False], [False, False]], [True, True, True]]


def test_equal_magnitudes_go_in_the_order_of_indices_whatever_the_memory_order():
    weight = torch.ones(2, 3, 2, 2)
    plain, _ = magnitude_mask([weight], None, 7)
    permuted, _ = magnitude_mask([weight.contiguous(memory_format=torch.channels_last)], None, 7)
    assert torch.equal(plain[0], permuted[0])
    assert not plain[0].flatten()[:7].any()


def test_zero_removes_nothing_and_all_removes_everything():
    weights, masks = network([(30,), (4, 5)], "special")
    for scope, none, everything in (
        ("global", 0, sum(live_counts(weights, masks))),
        ("layerwise", [0, 0], live_counts(weights, masks)),
    ):
        kept, found = magnitude_mask(weights, masks, none, scope=scope)
        assert (found.value == -INF).all() and not found.ties.any()
        assert all(torch.equal(k, m) for k, m in zip(kept, masks, strict=True))
        assert not any(k.any() for k in magnitude_mask(weights, masks, everything, scope=scope)[0])


def test_what_is_not_finite_comes_last_and_is_counted_by_layer():
    weights = [torch.tensor([1.0, NAN, -INF]), torch.tensor([2.0, -NAN]), torch.tensor([5.0])]
    masks = [None, torch.tensor([True, False]), None]
    found = magnitude_threshold(weights, masks, 4)
    assert found.value == INF and found.not_finite.tolist() == [2, 0, 0] and found.live.tolist() == [3, 1, 1]
    assert magnitude_threshold(weights, masks, 5).value.isnan()


W = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("weights", "masks", "count", "options", "message"),
    [
        ([], None, 0, {}, "0 layers"),
        ([W], [None, None], 0, {}, "1 layers with 2 masks"),
        ([W, W.long()], None, 0, {}, "layer 1 is torch.int64"),
        ([W, W.to("meta")], None, 0, {}, "layer 1 is on meta"),
        ([W], [W], 0, {}, "mask 0 is torch.float32"),
        ([W, W], [None, W[:1].bool()], 0, {}, r"mask 1 is torch.bool \(1, 3\)"),
        ([W], None, -1, {}, "count is -1"),
        ([W], None, torch.tensor(-1), {}, "count is -1"),
        ([W], None, 7, {}, "count is 7, but only 6 weights are live"),
        ([W, W], None, [6, 7], {"scope": "layerwise"}, "count is 7, but only 6"),
        ([W, W], None, 3, {"scope": "layerwise"}, "1 counts for scope 'layerwise': expected 2"),
        ([W], None, torch.tensor([1, 2]), {}, "expected 1 of torch.int64"),
        ([W], None, torch.tensor(1.0), {}, "count is torch.float32"),
        ([W], None, 1, {"scope": "layer"}, "scope is 'layer'"),
        ([W], None, 1, {"rule": "ours"}, "rule is 'ours'"),
        ([W], None, 6, {"rule": "open_lth"}, "count is 7, but only 6"),
    ],
)
def test_bad_arguments_are_named(weights, masks, count, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        magnitude_mask(weights, masks, count, **options)


def test_a_count_may_be_a_tensor():
    weights = [torch.arange(10.0), torch.arange(20.0)]
    assert magnitude_threshold(weights, None, torch.tensor(5)).value == 2.0
    found = magnitude_threshold(weights, None, torch.tensor([1, 20]), scope="layerwise")
    assert found.value.tolist() == [0.0, 19.0]


@pytest.mark.parametrize("layerwise", [False, True])
def test_operators_pass_torchs_own_checks(layerwise):
    weights, masks = network([(30,), (4, 5), (3,)])
    count = torch.tensor([4, 5, 2] if layerwise else [11])
    torch.library.opcheck(torch.ops.sparselt.magnitude_threshold.default, (weights, masks, count, layerwise))
    value, ties, _, _ = torch.ops.sparselt.magnitude_threshold(weights, masks, count, layerwise)
    for given_ties in (ties, None):
        torch.library.opcheck(torch.ops.sparselt.magnitude_keep.default, (weights, masks, value, given_ties, layerwise))


def test_compiles_into_one_graph_and_computes_the_same():
    def prune(weights, masks, count):
        kept, found = magnitude_mask(weights, masks, count)
        return [w * k for w, k in zip(weights, kept, strict=True)], found.value + 1

    weights, masks = network([(30,), (4, 5)])
    expected = prune(weights, masks, torch.tensor(11))
    got = torch.compile(prune, fullgraph=True, backend="aot_eager")(weights, masks, torch.tensor(11))
    assert all(torch.equal(x, y) for x, y in zip(got[0], expected[0], strict=True)) and got[1] == expected[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["normal", "ties", "special"])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_on_a_gpu_eager_and_captured_equal_the_cpu(kind, scope):
    weights, masks = network([(64, 32, 3, 3), (5,), (123, 41), (), (100_003,), (0,)], kind, order="channels last")
    counts = torch.tensor([number // 3 for number in live_counts(weights, masks)])
    count = counts if scope == "layerwise" else counts.sum()
    there = [w.cuda() for w in weights], [None if m is None else m.cuda() for m in masks], count.cuda()
    for rule in ("exact", "open_lth"):
        if rule == "open_lth" and scope == "layerwise":
            continue  # the empty layer has no weight of rank 1
        expected, numbers = magnitude_mask(weights, masks, count, scope=scope, rule=rule)
        eager = magnitude_mask(*there, scope=scope, rule=rule)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = magnitude_mask(*there, scope=scope, rule=rule)
        graph.replay()
        for kept, found in (eager, captured):
            assert all(torch.equal(k.cpu(), answer) for k, answer in zip(kept, expected, strict=True))
            for got, answer in zip(found, numbers, strict=True):
                torch.testing.assert_close(got.cpu(), answer, rtol=0, atol=0, equal_nan=True)
