"""winograd_conv2d against the direct float64 convolution, as a torch operator, and on several threads."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparselt.kernels.winograd import cpu, pays, reference, winograd_conv2d
from sparselt.kernels.winograd.transforms import BACK, GROUP, KERNEL, PIXELS

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
quick = settings(max_examples=40, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 2**-8}
WIDE = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}


def images(*size: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=dtype).contiguous(memory_format=torch.channels_last)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=TOLERANCE[got.dtype] * scale)


@quick
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    channels=st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([16, 32, 48])),
    count=st.integers(1, 9),
    bias=st.booleans(),
    residual=st.booleans(),
    relu=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
)
@example((8, 8), (16, 32), 1, True, False, False, torch.float32)
@example((4, 4), (16, 16), GROUP, True, True, True, torch.float32)
@example((4, 4), (32, 16), GROUP + 1, False, True, True, torch.float32)
def test_matches_the_direct_convolution(size, channels, count, bias, residual, relu, dtype):
    x, weight = images(count, channels[0], *size).to(dtype), images(channels[1], channels[0], 3, 3).to(WIDE[dtype]) / 12
    shift = images(channels[1], 1, 1, 1).flatten().to(WIDE[dtype]) if bias else None
    added = images(count, channels[1], *size, seed=1).to(dtype) if residual else None
    out = winograd_conv2d(x, weight, shift, residual=added, relu=relu)
    wide = [None if tensor is None else tensor.double() for tensor in (x, weight, shift, added)]
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    close(out, reference.winograd_conv2d(*wide, relu))


@quick
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    channels=st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([16, 32, 48])),
    count=st.integers(1, 40),
    dtype=st.sampled_from(list(TOLERANCE)),
)
@example((4, 4), (16, 16), GROUP, torch.float32)
@example((4, 4), (160, 16), 17 * GROUP, torch.float32)  # sums over more tiles at a time
def test_gradients_match_those_of_the_direct_convolution(size, channels, count, dtype):
    x, weight = images(count, channels[0], *size).to(dtype), images(channels[1], channels[0], 3, 3).to(WIDE[dtype]) / 12
    shift, upstream = torch.zeros(channels[1], dtype=weight.dtype), images(count, channels[1], *size, seed=2).to(dtype)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, shift)]
    wide = [tensor.detach().double().requires_grad_() for tensor in leaves]
    found = torch.autograd.grad(winograd_conv2d(*leaves), leaves, upstream)
    expected = torch.autograd.grad(reference.winograd_conv2d(*wide), wide, upstream.double())
    for got, answer, leaf in zip(found, expected, leaves, strict=True):
        assert got.dtype == leaf.dtype
        close(got, answer)


def test_second_derivatives_are_right():
    x, weight = images(2, 16, 3, 5), images(16, 16, 3, 3) / 12
    assert torch.autograd.gradgradcheck(
        lambda x, weight: winograd_conv2d(x.contiguous(memory_format=torch.channels_last), weight),
        (x.requires_grad_(), weight.requires_grad_()),
        fast_mode=True,
    )


def test_the_matrices_are_winograds():
    pixels, kernel, back = (torch.tensor(matrix, dtype=torch.float64) for matrix in (PIXELS, KERNEL, BACK))
    x, w = images(1, 1, 6, 6)[0, 0], images(1, 1, 3, 3)[0, 0]
    out = back.T @ ((pixels @ x @ pixels.T) * (kernel @ w @ kernel.T)) @ back
    torch.testing.assert_close(out, torch.conv2d(x[None, None], w[None, None])[0, 0], rtol=1e-12, atol=1e-12)


def test_threads_change_no_bits(monkeypatch):
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 0)
    x, weight, upstream = (images(*s, dtype=torch.float32) for s in ((30, 16, 9, 9), (48, 16, 3, 3), (30, 48, 9, 9)))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            out = winograd_conv2d(*leaves)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, upstream)])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_an_image_alone_gets_the_bits_that_it_has_in_a_batch():
    x, weight = images(31, 16, 6, 7, dtype=torch.float32), images(16, 16, 3, 3, dtype=torch.float32)
    together = winograd_conv2d(x, weight)
    alone = torch.cat([winograd_conv2d(x[k : k + 1], weight) for k in range(len(x))])
    assert torch.equal(together, alone)


def test_what_is_not_finite_stays_in_its_image():
    x, weight = images(3, 16, 5, 5, dtype=torch.float32), images(16, 16, 3, 3, dtype=torch.float32)
    x[1, 0, 2, 2] = float("nan")
    out = winograd_conv2d(x, weight, relu=True)
    assert out[[0, 2]].isfinite().all() and out[1, :, 1:4, 1:4].isnan().all()


def test_operators_pass_torchs_own_checks():
    x, weight, d = images(2, 16, 5, 4), images(32, 16, 3, 3), images(2, 32, 5, 4)
    ops, leaf = torch.ops.sparselt, weight.clone().requires_grad_()
    torch.library.opcheck(ops.winograd_conv2d.default, (x, leaf, None, None, False))
    torch.library.opcheck(ops.winograd_conv2d.default, (x, weight, torch.zeros(32).double(), d, True))
    torch.library.opcheck(ops.winograd_conv2d_input.default, (d, weight))
    torch.library.opcheck(ops.winograd_conv2d_weight.default, (x, d))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": images(2, 16, 4, 4).contiguous()}, "expected channels last"),
        ({"input": images(2, 16, 4, 4).float()}, "input is torch.float32, weight torch.float64"),
        ({"input": images(2, 16, 4, 4).bfloat16(), "weight": images(16, 16, 3, 3).bfloat16()}, "both float64"),
        ({"input": images(2, 32, 4, 4)}, r"expected \[N, 16, H, W\]"),
        ({"input": images(0, 16, 4, 4)}, "not empty"),
        ({"weight": images(16, 16, 1, 1)}, r"weight is \(16, 16, 1, 1\)"),
        ({"weight": images(8, 16, 3, 3)}, "multiples of 16 channels"),
        ({"bias": torch.zeros(16)}, "bias is torch.float32"),
        ({"bias": torch.zeros(8).double()}, r"bias is torch.float64 \(8,\)"),
        ({"residual": images(2, 16, 4, 5)}, r"residual is .*\(2, 16, 4, 5\)"),
    ],
)
def test_arguments_that_it_does_not_take_are_refused_by_name(change, says):
    arguments = {"input": images(2, 16, 4, 4), "weight": images(16, 16, 3, 3)} | change
    with pytest.raises(TypeError, match=says):
        winograd_conv2d(**arguments)


def test_a_fused_call_has_no_derivative_and_says_so():
    weight = images(16, 16, 3, 3).requires_grad_()
    with pytest.raises(NotImplementedError, match="call it without"):
        winograd_conv2d(images(2, 16, 4, 4), weight, relu=True).sum().backward()


@pytest.mark.parametrize(
    ("count", "channels", "side", "expected", "halved"),
    [
        (64, 16, 8, True, False),
        (64, 64, 8, True, True),
        (64, 32, 2, False, False),
        (64, 32, 5, False, False),
        (64, 256, 8, True, False),
        (64, 512, 8, False, False),
        (4, 64, 4, False, False),
    ],
)
def test_dtype_and_shapes_say_where_it_pays(count, channels, side, expected, halved):
    x, weight = images(count, channels, side, side, dtype=torch.float32), torch.empty(channels, channels, 3, 3)
    assert (pays(x, weight), pays(x.bfloat16(), weight)) == (expected, halved)
