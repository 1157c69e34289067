"""conv_bn's Triton kernels in Triton's interpreter, on CPU tensors, against the reference."""

import pytest
import torch
from conv_cases import SHAPES, TOLERANCE, Case
from norm_cases import assert_close

from sparselt.kernels.conv_bn import gpu, gpu_tiles, gpu_weight

CASES = [
    *((name, torch.float32, True) for name in SHAPES),
    *((name, torch.bfloat16, True) for name in ("16 to 32, stride 2", "64 to 64")),
    ("3 to 16", torch.float32, False),
]


@pytest.mark.parametrize(("name", "dtype", "normalized"), CASES, ids=str)
def test_the_kernels_agree_with_the_reference(name, dtype, normalized):
    case = Case(SHAPES[name], dtype, normalized=normalized)
    found = case.results(gpu)
    # The interpreter truncates to bfloat16 where the hardware rounds.
    assert_close(found, case.answers(found["out"]), TOLERANCE[dtype] * (2 if dtype == torch.bfloat16 else 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_network_gets_the_same_bits_alone_and_together_and_again(dtype):
    case = Case((3, 3, 7, 9, 16, 16, 3, 1), dtype)
    together = case.results(gpu)
    alone = case.of(slice(2, 3)).results(gpu)
    again = case.of(slice(2, 3)).results(gpu)
    for name, found in together.items():
        assert torch.equal(found[2], alone[name][0]) and torch.equal(alone[name], again[name]), name


def test_weights_may_lie_apart_in_an_arena():
    case = Case((2, 2, 4, 5, 8, 8, 3, 1), torch.float32)
    expected = case.results(gpu)
    arena = torch.randn(2, 1000)
    apart = arena[:, 8 : 8 + case.weight[0].numel()].view(case.weight.shape)
    apart.copy_(case.weight)
    case.weight = apart
    assert all(torch.equal(found, expected[name]) for name, found in case.results(gpu).items())


def test_many_tiles_are_added_in_several_steps(monkeypatch):
    case = Case((1, 5, 16, 16, 4, 4, 1, 1), torch.float32)
    monkeypatch.setattr(gpu, "_TILES", 4)
    monkeypatch.setattr(gpu_tiles, "_TOGETHER", 4)
    monkeypatch.setattr(gpu_weight, "_STEPS", 1)
    monkeypatch.setattr(gpu_weight, "_STRETCHES", 9)  # of 40 products: stretches of 5
    found = case.results(gpu)
    assert_close(found, case.answers(found["out"]), TOLERANCE[torch.float32])


def test_a_mean_that_is_large_beside_the_deviation_costs_no_digits():
    x = torch.randn(1, 4, 8, 8, 16, generator=torch.Generator().manual_seed(0)) + 1000
    weight = torch.eye(16).view(1, 16, 1, 1, 16)
    out, _, var = gpu.conv_bn(x, weight, None, None, 1)
    assert torch.equal(out, x)
    torch.testing.assert_close(var.double(), x.double().var((1, 2, 3), unbiased=False), rtol=1e-3, atol=0)


def test_what_is_not_a_number_stays_none():
    x = torch.randn(2, 1, 5, 5, 3)
    x[1, 0, 3, 3, 0] = float("nan")
    out, mean, _ = gpu.conv_bn(x, torch.randn(2, 4, 3, 3, 3), torch.ones(2, 3), torch.zeros(2, 3), 1)
    assert out[1, 0, 2:5, 2:5].isnan().all() and mean[1].isnan().all() and not out[0].isnan().any()
