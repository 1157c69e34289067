"""interpolate on the CPU against the float64 reference and brute force, as a torch operator, and its Triton kernel."""

import itertools

import pytest
import torch
from far_memory import FAR, far_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import arranged, drawn_mask, kinds_of_mask, memory, shapes

from sparselt.kernels import interpolate
from sparselt.kernels.interpolate import cpu, gram_matrix, project_to_hull, reference

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
quick = settings(max_examples=40, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 2**-7}
SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.0, -2.0])
TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def networks(count: int, shapes, order="contiguous", dtype=torch.float32, seed=0) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[arranged(torch.randn(s, generator=generator).to(dtype), order) for s in shapes] for _ in range(count)]


def points(count: int, plane: bool, seed=0) -> torch.Tensor:
    """Coefficients in and outside the hull, its corners among them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 3 - 1
    drawn[: min(count, 3)] = TRIANGLE.double()[: min(count, 3)]
    return drawn if plane else drawn[:, 0].contiguous()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@pytest.fixture(params=[0, 1 << 60], ids=["streamed", "cached"], scope="module")
def stores(request):
    """Both ways of writing the rows, whatever their size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "STREAM_FROM", request.param)
        yield


@pytest.mark.usefixtures("stores")
@quick
@given(
    shapes,
    memory,
    kinds_of_mask,
    st.booleans(),
    st.integers(0, 12),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 99),
)
def test_matches_the_float64_reference(shapes, order, mask, plane, count, dtype, seed):
    ends, coefficients = networks(3 if plane else 2, shapes, order, dtype, seed), points(count, plane, seed)
    generator = torch.Generator().manual_seed(seed)
    masks = [drawn_mask(s, mask, generator) if i % 2 else None for i, s in enumerate(shapes)]
    prunable = [bool((seed >> i) & 1) for i in range(len(shapes))]
    out = [torch.full((count, *a.shape), float("nan"), dtype=dtype) for a in ends[0]]
    out = [
        torch.empty_strided((count, *a.shape), (a.numel(), *a.stride()), dtype=dtype).copy_(o)
        for a, o in zip(ends[0], out, strict=True)
    ]
    got = interpolate(ends, coefficients, prunable=prunable, masks=masks, out=out)
    hull = project_to_hull(coefficients, gram_matrix(ends) if plane else None)
    expected = reference.interpolate(ends, coefficients, hull=hull, prunable=prunable, masks=masks)
    for i, (rows, answer) in enumerate(zip(got, expected, strict=True)):
        assert rows is out[i]
        torch.testing.assert_close(rows.double(), answer, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])
        assert masks[i] is None or not rows[:, ~masks[i]].any()


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("count", [2, 3])
def test_ends_come_to_the_bit_whatever_the_others_hold(count):
    ends = [[SPECIAL.roll(i).clone()] for i in range(count)]
    coefficients = torch.tensor([0.0, 1.0]) if count == 2 else TRIANGLE
    for row, end in zip(interpolate(ends, coefficients)[0], ends, strict=True):
        assert same_bits(row, end[0])


@quick
@given(shapes, kinds_of_mask, st.booleans(), st.integers(0, 99))
def test_what_is_not_finite_stays_where_it_is_and_never_under_a_mask(shapes, mask, plane, seed):
    ends, coefficients = networks(3 if plane else 2, shapes, seed=seed), points(5, plane, seed)
    generator = torch.Generator().manual_seed(seed)
    masks = [drawn_mask(s, mask, generator) for s in shapes]
    clean = interpolate(ends, coefficients, masks=masks)
    odd = [[torch.rand(s, generator=generator) < 0.2 for s in shapes] for _ in ends]
    values = [[SPECIAL[torch.randint(0, 3, s, generator=generator)] for s in shapes] for _ in ends]
    ends = [
        [torch.where(*triple) for triple in zip(*lists, strict=True)] for lists in zip(odd, values, ends, strict=True)
    ]
    got = interpolate(ends, coefficients, masks=masks)
    for i, rows in enumerate(got):
        anywhere = torch.stack([where[i] for where in odd]).any(0)
        assert same_bits(torch.where(anywhere, 0, rows), torch.where(anywhere, 0, clean[i]))
        inner = rows[3:]  # the first three are ends, which do not see the others
        assert not inner[:, anywhere & masks[i]].isfinite().any()
        assert not rows[:, ~masks[i]].any()


def test_an_edge_of_the_plane_does_not_see_the_third_end():
    a, b = networks(2, [(50,)])
    nothing = [torch.full((50,), float("nan"))]
    position = torch.linspace(0, 1, 5)
    path, zero = interpolate([a, b], position)[0], torch.zeros(5)
    assert same_bits(interpolate([a, b, nothing], torch.stack([position, zero], 1))[0], path)
    assert same_bits(interpolate([a, nothing, b], torch.stack([zero, position], 1))[0], path)


def test_where_the_ends_agree_so_does_everything_between():
    a = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate([a, a, a], points(20, True)), a.expand(20, -1))


def test_outside_the_hull_only_prunable_tensors_extrapolate():
    a, b = torch.zeros(3), torch.ones(3)
    weights, norms = interpolate([[a, a], [b, b]], torch.tensor([-0.5, 0.5, 1.5]), prunable=[True, False])
    assert weights[:, 0].tolist() == [-0.5, 0.5, 1.5]
    assert norms[:, 0].tolist() == [0.0, 0.5, 1.0]


@quick
@given(st.tuples(*[st.floats(-2, 2) for _ in range(4)]), st.integers(0, 999))
def test_projection_is_the_nearest_point_of_the_hull(steps, seed):
    steps = torch.tensor(steps, dtype=torch.float64).view(2, 2)
    gram, outside = steps @ steps.t(), points(9, True, seed)
    nearest = project_to_hull(outside, gram)
    assert (nearest >= -1e-12).all() and (nearest.sum(1) <= 1 + 1e-12).all()
    longest = float(gram.diagonal().max().sqrt())
    for point, answer in zip(outside, nearest, strict=True):
        gap = point - answer
        brute = reference.squared_distance_to_hull(point, gram, 200)
        ours = float(gap @ gram @ gap)
        # The grid is never nearer, and at most one of its cells farther.
        assert ours <= brute + 1e-9
        assert max(ours, 0.0) ** 0.5 >= brute**0.5 - 2 * longest / 200 - 1e-6
    inside = (outside >= 0).all(1) & (outside.sum(1) <= 1)
    assert torch.equal(nearest[inside], outside[inside])


def test_projection_does_not_depend_on_the_order_of_the_ends():
    ends, coefficients = networks(3, [(30,), (4, 5)], dtype=torch.float64), points(20, True)
    expected = interpolate(ends, coefficients, prunable=[False, False])
    full = torch.cat([1 - coefficients.sum(1, keepdim=True), coefficients], 1)
    for order in itertools.permutations(range(3)):
        got = interpolate([ends[i] for i in order], full[:, order[1:]], prunable=[False, False])
        for rows, answer in zip(got, expected, strict=True):
            torch.testing.assert_close(rows, answer, rtol=1e-12, atol=1e-12)


def test_ends_on_one_line_or_all_equal_project_to_finite_weights():
    a = torch.randn(10, generator=torch.Generator().manual_seed(0))
    for b, c in ((2 * a, 3 * a), (a, a), (a, 2 * a)):
        rows = interpolate([[a], [b], [c]], points(9, True), prunable=[False])[0]
        share = (rows / a).mean(1)
        assert (share >= 1 - 1e-5).all() and (share <= 3 + 1e-5).all()


def test_a_given_gram_matrix_is_used():
    ends, coefficients = networks(3, [(30,)]), torch.tensor([[2.0, 2.0]])
    first = interpolate(ends, coefficients, prunable=[False], gram=torch.tensor([[1.0, 0.0], [0.0, 100.0]]))
    second = interpolate(ends, coefficients, prunable=[False], gram=torch.tensor([[100.0, 0.0], [0.0, 1.0]]))
    assert not torch.allclose(first[0], second[0])


@pytest.mark.usefixtures("stores")
def test_threads_change_no_bits_and_nothing_outside_the_rows(monkeypatch):
    shapes = [(20_001,), (7, 9), (64, 33), (2,)]
    ends, coefficients = networks(3, shapes), points(7, True)
    expected = interpolate(ends, coefficients)
    threads = torch.get_num_threads()
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 1)
    try:
        for count, offset in ((1, 0), (2, 1), (3, 3)):
            torch.set_num_threads(count)
            memory = [torch.full((9 * (a.numel() + 8),), 7.0) for a in ends[0]]
            out = [
                m.as_strided((7, *a.shape), (a.numel() + 8, *a.stride()), offset)
                for m, a in zip(memory, ends[0], strict=True)
            ]
            interpolate(ends, coefficients, out=out)
            for rows, answer, m in zip(out, expected, memory, strict=True):
                assert same_bits(rows, answer)
                rows.fill_(7.0)
                assert (m == 7.0).all()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("stores")
def test_weights_beyond_two_to_the_31_are_found(monkeypatch):
    a, b, out = far_tensor(), far_tensor(), far_tensor(2 * FAR).view(2, FAR)
    a[-3000:], b[-3000:] = 1.0, 3.0
    monkeypatch.setattr(cpu, "split", lambda part, arguments, total, _: part(*arguments, total - 2000, total))
    interpolate([a, b], torch.tensor([0.5, 1.0]), out=out)
    for row, value in zip(out, (2.0, 3.0), strict=True):
        assert (row[-2000:] == value).all() and not row[-4000:-2000].any() and not row[:4000].any()


def test_ends_in_other_memory_orders_are_copied_to_the_first_ones():
    a, b = torch.randn(2, 4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    position = torch.tensor([0.3])
    got = interpolate([a.contiguous(memory_format=torch.channels_last), b], position)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got[0], torch.lerp(a, b, 0.3))
    spread = torch.zeros(4, 3, 2, 10)
    spread[..., ::2] = a
    assert torch.equal(interpolate([spread[..., ::2], b], position), interpolate([a, b], position))


def test_rows_of_several_tensors_may_alternate_in_memory():
    arena, (a, b) = torch.full((4, 12), 7.0), networks(2, [(5,), (6,)])
    out = [arena[:, :5], arena[:, 5:11]]
    interpolate([a, b], torch.linspace(0, 1, 4), out=out)
    for rows, answer in zip(out, interpolate([a, b], torch.linspace(0, 1, 4)), strict=True):
        assert same_bits(rows, answer)
    assert (arena[:, 11] == 7).all()


@pytest.mark.parametrize("plane", [False, True])
def test_operator_passes_torchs_own_checks(plane):
    first, second, third = networks(3, [(40,), (3, 4)])
    out = [torch.zeros(2, 40), torch.zeros(2, 3, 4)]
    arguments = (out, first, second, third if plane else [], torch.rand(2, 2, 2), [None, torch.ones(3, 4).bool()])
    torch.library.opcheck(torch.ops.sparselt.interpolate.default, (*arguments, [True, False]))


def test_compiles_into_one_graph_and_computes_the_same():
    def both(ends, coefficients, mask):
        rows = interpolate(ends, coefficients, prunable=[True, False], masks=[mask, None])
        return [2 * r for r in rows]

    ends, coefficients = networks(3, [(40,), (3, 4)]), points(5, True)
    mask = drawn_mask((40,), "random", torch.Generator().manual_seed(0))
    got = torch.compile(both, fullgraph=True, backend="aot_eager")(ends, coefficients, mask)
    assert all(torch.equal(x, y) for x, y in zip(got, both(ends, coefficients, mask), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("plane", [False, True], ids=["path", "plane"])
def test_on_a_gpu_eager_and_captured_match_the_cpu(plane):
    shapes = [(64, 32, 3, 3), (5,), (123, 41), (), (100_003,), (0,)]
    ends, coefficients = networks(3 if plane else 2, shapes, "channels last"), points(35, plane)
    generator = torch.Generator().manual_seed(0)
    masks = [drawn_mask(s, "random", generator) if len(s) > 1 else None for s in shapes]
    prunable = [len(s) > 1 for s in shapes]
    expected = interpolate(ends, coefficients, prunable=prunable, masks=masks)
    there = [[tensor.cuda() for tensor in end] for end in ends]
    options = {"prunable": prunable, "masks": [None if m is None else m.cuda() for m in masks]}
    position = coefficients.cuda()
    out = interpolate(there, position, **options)
    for _ in range(2):
        for got, answer in zip(out, expected, strict=True):
            torch.testing.assert_close(got.cpu(), answer, rtol=4e-6, atol=2e-5)
            got.fill_(float("nan"))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            interpolate(there, position, **options, out=out)
        graph.replay()
