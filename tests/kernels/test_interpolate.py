"""interpolate on the CPU against the float64 reference and brute force, as a torch operator, and its Triton kernel."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import arranged, drawn_mask, kinds_of_mask, memory, shapes
from sparselt.kernels import interpolate
from sparselt.kernels.interpolate import cpu, gram_matrix, project_to_hull, reference

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


@pytest.mark.parametrize("count", [2, 3])
def test_ends_come_to_the_bit_whatever_the_others_hold(count):
    ends = [[SPECIAL.roll(i).clone()] for i in range(count)]
    coefficients = torch.tensor([0.0, 1.0]) if count == 2 else TRIANGLE
    for row, end in zip(interpolate(ends, coefficients)[0], ends, strict=True):
        assert same_bits(row, end[0])


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


def test_threads_change_no_bits_and_nothing_outside_the_rows(monkeypatch):
    shapes = [(3001,), (7, 9), (64, 33), (2,)]
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


def test_ends_in_other_memory_orders_are_copied_to_the_first_ones():
    a, b = torch.randn(2, 4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    position = torch.tensor([0.3])
    got = interpolate([a.contiguous(memory_format=torch.channels_last), b], position)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got[0], torch.lerp(a, b, 0.3))
    spread = torch.zeros(4, 3, 2, 10)
    spread[..., ::2] = a
    assert torch.equal(interpolate([spread[..., ::2], b], position), interpolate([a, b], position))


A, B = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("ends", "coefficients", "options", "message"),
    [
        ([A], torch.zeros(3), {}, "1 end points"),
        ([], torch.zeros(3), {}, "0 end points"),
        ([A, B], torch.zeros(3, 2), {}, r"shape \(3, 2\): expected \[K\]"),
        ([A, B, B], torch.zeros(3), {}, r"expected \[K, 2\]"),
        ([A, B, B], torch.zeros(3, 3), {}, r"expected \[K, 2\]"),
        ([A, B], torch.zeros(3, dtype=torch.int64), {}, "coefficients are torch.int64"),
        ([A.long(), B.long()], torch.zeros(3), {}, "tensor 0 is torch.int64"),
        ([[A, A], [B]], torch.zeros(3), {}, "end points of 2, 1 tensors"),
        ([[A, A], [B, B[:1]]], torch.zeros(3), {}, "tensor 1 of end point 1"),
        ([A, B.double()], torch.zeros(3), {}, "tensor 0 of end point 1 is torch.float64"),
        ([A, B.to("meta")], torch.zeros(3), {}, "on meta"),
        ([A, B], torch.zeros(3), {"prunable": [True, False]}, "2 prunable flags"),
        ([A, B], torch.zeros(3), {"masks": [A]}, "mask 0 is torch.float32"),
        ([A, B], torch.zeros(3), {"masks": [A[:1].bool()]}, "mask 0 is torch.bool"),
        ([A, B], torch.zeros(3), {"out": []}, "0 tensors to fill"),
        ([A, B], torch.zeros(3), {"out": [torch.zeros(2, 2, 3)]}, "out 0 is"),
        ([A, B], torch.zeros(3), {"out": [torch.zeros(3, 3, 2).transpose(1, 2)]}, "out 0 has strides"),
        ([A, B], torch.zeros(3), {"out": [torch.zeros(2, 3).expand(3, 2, 3)]}, "out 0 has strides"),
    ],
)
def test_bad_arguments_are_named(ends, coefficients, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        interpolate(ends, coefficients, **options)


def test_a_plane_cannot_be_projected_without_a_distance():
    with pytest.raises(ValueError, match="gram_matrix"):
        project_to_hull(torch.zeros(3, 2))


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


def test_the_triton_kernel_passes_its_checks_in_the_interpreter():
    # Triton reads TRITON_INTERPRET when a kernel is decorated, so it cannot be set in a process that has imported one.
    checks = Path(__file__).with_name("interpreted_interpolate.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, str(checks)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def ahead_of_time(arch, *, plane, bfloat16=False):
    """The kernel compiled for a GPU that is not here."""
    pytest.importorskip("triton", reason="no Triton on this platform")
    from sparselt.kernels.interpolate.gpu import BLOCK, POINTS, interpolate_kernel
    from test_kernel_compilation import compiled
    from triton.backends.compiler import GPUTarget

    constants = {"PLANE": plane, "MASKED": True, "ALIGNED": True, "BFLOAT16": bfloat16}
    signature = {"blocks": "*i32", "table": "*i64", "coefficients": "*fp32", "points": "i32", "chunks": "i32"}
    target = GPUTarget("hip", arch, 64) if arch == "gfx942" else GPUTarget("cuda", arch, 32)
    return compiled(interpolate_kernel, signature, {**constants, "POINTS": POINTS, "BLOCK": BLOCK}, target)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("plane", [False, True], ids=["path", "plane"])
def test_the_compiled_kernel_spills_nothing_and_moves_16_bytes_at_a_time(arch, plane, bfloat16, tmp_path):
    kernel = ahead_of_time(arch, plane=plane, bfloat16=bfloat16)
    from test_kernel_compilation import resources

    used = resources(kernel, tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] <= 80  # a thread: eight weights of three ends and of a row take 32; 80 keep 24 warps on an SM
    # 1,024 weights over 128 threads: 32 bytes a thread of float32, 16 of bfloat16.
    accesses = 1 if bfloat16 else 2
    assert kernel.asm["ptx"].count("ld.global.v4") == accesses * (3 if plane else 2)
    assert kernel.asm["ptx"].count("st.global.v4") == accesses


def test_the_kernel_compiled_for_amd_spills_nothing():
    assembly = ahead_of_time("gfx942", plane=True).asm["amdgcn"]
    for counter in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
        assert f".{counter}: 0" in " ".join(assembly.split())


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
