"""sparse_conv2d and sparse_linear against the dense float64 reference, as torch operators, and on several threads."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sparselt.kernels.sparse_conv2d import cpu, norm, pattern_of, reference, sparse_conv2d, sparse_linear
from sparselt.kernels.sparse_conv2d.lists import backward_side, forward_side, pool_sides
from sparselt.kernels.tiles import BLOCK, enter, leave

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
quick = settings(max_examples=40, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2**-7}
WIDE = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}
MASKS = ["random", "full", "empty", "one weight", "a channel without weights", "a weight a channel"]


def drawn(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    live = torch.rand(shape, generator=generator) < {"full": 2.0, "empty": -1.0}.get(kind, 0.3)
    if kind == "one weight":
        live = torch.zeros(live.numel()).index_fill(0, torch.tensor(live.numel() // 2), 1).bool().view(shape)
    elif kind == "a channel without weights":
        live[0], live[:, -1] = False, False
    elif kind == "a weight a channel":
        live = torch.zeros(shape[0], live[0].numel()).bool()
        live[:, -1] = True
        live = live.view(shape)
    return live


def close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@quick
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    count=st.sampled_from([1, 63, 64, 65, 130]),
    mask=st.sampled_from(MASKS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@example((8, 8), (8, 16), (3, 3), 2, 1, 64, "random", torch.float32, 0)
@example((7, 5), (3, 4), (1, 1), 2, 0, 65, "full", torch.float32, 0)
@example((2, 2), (9, 9), (3, 3), 1, 1, 64, "random", torch.bfloat16, 0)
def test_matches_the_float64_reference_forward_and_backward(
    size, channels, kernel, stride, padding, count, mask, dtype, seed
):
    size = tuple(max(n, k - 2 * padding) for n, k in zip(size, kernel, strict=True))
    generator = torch.Generator().manual_seed(seed)
    live = drawn(mask, (channels[1], channels[0], *kernel), generator)
    weight = torch.randn(live.shape, generator=generator, dtype=WIDE[dtype])
    tiles = enter(torch.randn(count, channels[0], *size, generator=generator).to(dtype)).requires_grad_()
    weight.requires_grad_()
    out = sparse_conv2d(tiles, weight, pattern_of(live, stride), padding=padding)
    upstream = torch.randn(out.shape, generator=generator).to(dtype)
    by_tiles, by_weight = torch.autograd.grad(out, (tiles, weight), upstream)

    wide = tiles.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = reference.sparse_conv2d(*wide, live, stride=stride, padding=padding)
    answers = torch.autograd.grad(expected, wide, upstream.double())
    assert (out.dtype, by_tiles.dtype, by_weight.dtype) == (dtype, dtype, WIDE[dtype])
    close(out, expected.detach(), dtype)
    close(by_tiles, answers[0], dtype)
    close(by_weight, answers[1], torch.float64 if dtype == torch.float64 else torch.float32)
    assert not by_weight[~live].any()


@quick
@given(st.sampled_from([1, 60, 64, 130]), st.sampled_from(MASKS), st.booleans(), st.integers(0, 99))
def test_linear_matches_torchs(count, mask, with_bias, seed):
    generator = torch.Generator().manual_seed(seed)
    live = drawn(mask, (7, 13), generator)
    weight = torch.randn(7, 13, generator=generator, dtype=torch.float64)
    bias = torch.randn(7, generator=generator, dtype=torch.float64) if with_bias else None
    x = torch.randn(count, 13, generator=generator, dtype=torch.float64)
    got = leave(sparse_linear(enter(x[:, :, None, None]), weight, pattern_of(live), bias), count).flatten(1)
    torch.testing.assert_close(got, F.linear(x, weight * live, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_the_function(stride):
    generator = torch.Generator().manual_seed(0)
    live = drawn("random", (3, 2, 3, 3), generator)
    pattern, kept = pattern_of(live, stride), live.nonzero(as_tuple=True)
    values = torch.randn(int(live.sum()), generator=generator, dtype=torch.float64, requires_grad=True)
    tiles = torch.randn(1, 3, 4, 2, BLOCK, generator=generator, dtype=torch.float64, requires_grad=True)

    def function(tiles, values):
        weight = torch.zeros(live.shape, dtype=torch.float64).index_put(kept, values)
        return sparse_conv2d(tiles, weight, pattern, padding=1)

    assert torch.autograd.gradcheck(function, (tiles, values), fast_mode=True)


def test_masked_weights_are_not_read():
    generator = torch.Generator().manual_seed(0)
    live = drawn("random", (4, 3, 3, 3), generator)
    weight, tiles = torch.randn(live.shape, generator=generator), torch.randn(1, 5, 5, 3, BLOCK, generator=generator)
    pattern = pattern_of(live)
    spoiled = torch.where(live, weight, float("nan")).requires_grad_()
    out = sparse_conv2d(tiles.requires_grad_(), spoiled, pattern, padding=1)
    assert torch.equal(out, sparse_conv2d(tiles, torch.where(live, weight, 0.0), pattern, padding=1))
    out.sum().backward()
    assert tiles.grad.isfinite().all() and spoiled.grad.isfinite().all()


def test_what_is_not_finite_stays_in_its_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 4, generator=generator)
    images[1, 0, 2, 2] = float("nan")
    out = leave(sparse_conv2d(enter(images), torch.randn(2, 2, 3, 3), pattern_of(torch.ones(2, 2, 3, 3) > 0)), 3)
    assert out[[0, 2]].isfinite().all() and out[1].isnan().all()
    halved = sparse_conv2d(enter(images.bfloat16()), torch.randn(2, 2, 3, 3), pattern_of(torch.ones(2, 2, 3, 3) > 0))
    assert leave(halved, 3)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_bits(monkeypatch, dtype):
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 0)
    generator = torch.Generator().manual_seed(0)
    live = drawn("random", (19, 7, 3, 3), generator)
    weight, pattern = torch.randn(live.shape, generator=generator), pattern_of(live, 2)
    tiles = torch.randn(3, 9, 7, 7, BLOCK, generator=generator).to(dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            leaves = tiles.clone().requires_grad_(), weight.clone().requires_grad_()
            out = sparse_conv2d(*leaves, pattern, padding=1)
            out.float().square().sum().backward()
            results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@quick
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_pooling_sides_average_and_spread(height, width, channels, dtype):
    tiles = torch.randn(2, height, width, channels, BLOCK).to(dtype)
    gathered, spread = pool_sides(height, width, channels, tiles.itemsize)
    share = np.full(height * width * channels, 1 / (height * width), np.float32)
    pooled, back = tiles.new_empty(2, 1, 1, channels, BLOCK), torch.empty_like(tiles)
    cpu.gather(gathered, tiles, share, pooled).run()
    cpu.gather(spread, pooled, share[:channels], back).run()
    close(pooled, tiles.double().mean((1, 2), keepdim=True), dtype)
    close(back, (pooled.double() / (height * width)).expand(back.shape), dtype)


@quick
@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_a_job_starts_from_masks_and_sums_as_it_is_told(starts, masks, third, dtype):
    generator = torch.Generator().manual_seed(0)
    live = drawn("random", (5, 4, 3, 3), generator)
    pattern, size = pattern_of(live), torch.finfo(dtype).bits // 8
    weight = torch.randn(live.shape, generator=generator, dtype=dtype)
    d = torch.randn(2, 6, 7, 5, BLOCK, generator=generator, dtype=dtype)
    first, mask, a, b = torch.randn(4, 2, 6, 7, 4, BLOCK, generator=generator, dtype=dtype)
    side = backward_side(pattern, (6, 7, 4), 1, size)
    values = weight.view(-1).numpy()[side.places]
    plain = torch.empty_like(a)
    cpu.gather(side, d, values, plain).run()
    expected = plain.double() + (first if starts else 0)
    expected = torch.where(mask > 0, expected, 0) if masks else expected
    sums = np.full((12, 3, 4), np.nan)
    out = first.clone()
    options = {"first": out if starts else None, "mask": mask if masks else None, "b": b if third else None}
    cpu.gather(side, d, values, out, sums=sums, a=a, **options).run()
    close(out, expected, dtype)
    for row, factor in enumerate((torch.ones_like(a), a, b if third else torch.zeros_like(a))):
        rows = (expected * factor).sum((2, 4)).view(12, 4)
        close(torch.from_numpy(sums[:, row]), rows, dtype)
    squares = np.zeros((12, 3, 5))
    ahead = forward_side(pattern, (6, 7, 4), 1, size)
    y = torch.empty(2, 6, 7, 5, BLOCK, dtype=dtype)
    cpu.gather(ahead, a, weight.view(-1).numpy()[ahead.places], y, sums=squares).run()
    close(torch.from_numpy(squares[:, 1]), y.double().square().sum((2, 4)).view(12, 5), dtype)


@quick
@given(st.booleans(), st.booleans(), st.sampled_from([1, 64, 70]), st.sampled_from(list(TOLERANCE)), st.booleans())
def test_norms_relu_and_addition_match_the_reference(adds, relu, count, dtype, in_place):
    blocks = -(-count // BLOCK)
    u, v = torch.randn(2, blocks, 3, 2, 5, BLOCK).to(dtype)
    p, q, t = torch.randn(3, 5, dtype=WIDE[dtype])
    expected = reference.combine(u.double(), v.double() if adds else None, p, q, t, relu, count)
    out = u if in_place else torch.empty_like(u)
    numbers = [tensor.numpy() for tensor in (p, q, t)]
    norm.combine(out, u, v if adds else None, *numbers, relu=relu, count=count).run()
    close(out, expected, dtype)


@quick
@given(st.integers(0, 130), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_images_enter_and_leave_unchanged(count, channels, side, channels_last):
    images = torch.randn(count, channels, side, side + 1)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    tiles = enter(images)
    assert tiles.shape == (-(-count // BLOCK), side, side + 1, channels, BLOCK)
    assert torch.equal(leave(tiles, count), images)
    assert not leave(tiles, len(tiles) * BLOCK)[count:].any()


def test_operators_pass_torchs_own_checks():
    live = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    pattern = pattern_of(live, 2)
    lists = pattern[:4]
    tiles, weight = torch.randn(1, 5, 4, 2, BLOCK, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    d = torch.randn(1, 3, 2, 3, BLOCK)
    torch.library.opcheck(torch.ops.sparselt.sparse_conv2d.default, (tiles, weight, *lists, 2, 1))
    torch.library.opcheck(torch.ops.sparselt.sparse_conv2d_input.default, (d, weight.detach(), 5, 4, *lists, 2, 1))
    both = tiles.detach(), d, weight.detach()
    torch.library.opcheck(torch.ops.sparselt.sparse_conv2d_weight.default, (*both, *lists, 2, 1))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"input": torch.zeros(1, 4, 4, 3, BLOCK)}, ValueError, "expected tiles"),
        ({"input": torch.zeros(1, 4, 4, 2, 32)}, ValueError, "expected tiles"),
        ({"input": torch.zeros(1, 4, 4, 2, BLOCK).double()}, TypeError, "both float64"),
        ({"weight": torch.zeros(3, 2, 3, 3).bfloat16()}, TypeError, "bfloat16"),
        ({"weight": torch.zeros(3, 2, 1, 1)}, ValueError, "pattern's mask"),
        ({"padding": -1}, ValueError, "padding is -1"),
        ({"input": torch.zeros(1, 2, 4, 2, BLOCK)}, ValueError, "height of the input, 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, error, says):
    arguments = {"input": torch.zeros(1, 4, 4, 2, BLOCK), "weight": torch.zeros(3, 2, 3, 3)} | change
    with pytest.raises(error, match=says):
        sparse_conv2d(pattern=pattern_of(torch.ones(3, 2, 3, 3) > 0), **arguments)


def test_masks_and_linear_inputs_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"expected torch.bool"):
        pattern_of(torch.ones(3, 2, 3, 3))
    with pytest.raises(ValueError, match="stride is 0"):
        pattern_of(torch.ones(3, 2) > 0, 0)
    with pytest.raises(ValueError, match=r"\[out, in\]"):
        sparse_linear(torch.zeros(1, 2, 1, 3, BLOCK), torch.zeros(4, 3), pattern_of(torch.ones(4, 3) > 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="CPU only"):
        pattern = pattern_of(torch.ones(3, 2, 1, 1) > 0)
        sparse_conv2d(torch.zeros(1, 4, 4, 2, BLOCK).cuda(), torch.zeros(3, 2, 1, 1).cuda(), pattern)


def test_second_derivatives_are_right():
    live = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    pattern = pattern_of(live, 2)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def outputs(x, w):
        return leave(sparse_conv2d(enter(x), w * live, pattern, padding=1), 2)

    assert torch.autograd.gradgradcheck(outputs, (x, w))


def test_tiles_give_back_no_more_images_than_they_hold():
    tiles = enter(torch.zeros(3, 2, 4, 4))
    for count in (-1, 65, 4000):
        with pytest.raises(ValueError, match=f"count is {count} images: expected 0 to 64"):
            leave(tiles, count)
    with pytest.raises(ValueError, match=r"expected \[blocks, height, width, channels, 64\]"):
        leave(torch.zeros(3, 2, 4, 4), 3)
    with pytest.raises(ValueError, match=r"expected \[N, channels, height, width\]"):
        enter(torch.zeros(3, 2, 4))
