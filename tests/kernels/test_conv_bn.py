"""conv_bn on the CPU: against the reference in float64, as an operator, in a network, and what it refuses."""

import pytest
import torch
from conv_cases import SHAPES, TOLERANCE, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_cases import assert_close
from torch import nn
from torch.nn import functional as F

from sparselt.kernels.conv_bn import Comparison, Layer, conv_bn, cpu, faster_than_library
from sparselt.kernels.conv_bn.reference import conv_bn as reference

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.tuples(
        *(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
        *(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([1, 2])),
    ),
    st.sampled_from(list(TOLERANCE)),
    st.booleans(),
)
def test_agrees_with_the_reference(shape, dtype, normalized):
    case = Case(shape, dtype, normalized=normalized)
    found = case.results(cpu)
    assert_close(found, case.answers(found["out"]), 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_networks_get_the_same_bits_alone_and_together(dtype):
    case = Case(SHAPES["16 to 32, stride 2"], dtype)
    together = case.results(cpu)
    for k in range(3):
        alone = case.of(slice(k, k + 1)).results(cpu)
        assert all(torch.equal(alone[name][0], together[name][k]) for name in together)


def test_is_differentiable_through_outputs_statistics_scale_and_shift():
    case = Case((2, 2, 3, 4, 3, 4, 3, 2), torch.float64)
    leaves = [t.requires_grad_() for t in (case.input, case.weight, case.scale, case.shift)]
    assert torch.autograd.gradcheck(lambda *given: conv_bn(*given, stride=2), leaves)
    assert torch.autograd.gradcheck(lambda x, w: conv_bn(x, w)[0], leaves[:2])
    assert torch.autograd.gradcheck(lambda x, w: conv_bn(x, w)[1:], leaves[:2])
    with pytest.raises(NotImplementedError, match="conv_bn has no forward-mode derivative"):
        torch.func.jvp(lambda x: conv_bn(x, case.weight)[0], (case.input,), (case.input,))


def test_a_network_of_them_is_torchs_convolutions_batch_norms_and_relus():
    torch.manual_seed(0)
    networks = [
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 5, 1, bias=False), nn.BatchNorm2d(5)),
        ).double()
        for _ in range(3)
    ]
    images = torch.randn(3, 6, 3, 7, 9, dtype=torch.float64)
    for layer in (1, 4, 7):
        for network in networks:
            nn.init.uniform_(network[layer].weight)
            nn.init.normal_(network[layer].bias)
    theirs = torch.stack([network(each) for network, each in zip(networks, images, strict=True)])
    theirs.square().sum().backward()

    def stacked(layer: int, name: str) -> torch.Tensor:
        return torch.stack([getattr(network[layer], name).detach() for network in networks])

    weights = [stacked(k, "weight").permute(0, 1, 3, 4, 2).contiguous().requires_grad_() for k in (0, 3, 6)]
    gammas, betas = ([stacked(k, name).requires_grad_() for k in (1, 4, 7)] for name in ("weight", "bias"))
    out, scale, shift = images.permute(0, 1, 3, 4, 2).contiguous(), None, None
    for weight, gamma, beta, stride in zip(weights, gammas, betas, (1, 2, 1), strict=True):
        out, mean, var = conv_bn(out, weight, scale, shift, stride=stride)
        scale = gamma * torch.rsqrt(var + 1e-5)
        shift = beta - mean * scale
    ours = out * scale[:, None, None, None] + shift[:, None, None, None]
    ours.square().sum().backward()
    torch.testing.assert_close(ours, theirs.permute(0, 1, 3, 4, 2))
    for place, convolution in enumerate((0, 3, 6)):
        for k, network in enumerate(networks):
            torch.testing.assert_close(weights[place].grad[k].permute(0, 3, 1, 2), network[convolution].weight.grad)
            torch.testing.assert_close(gammas[place].grad[k], network[convolution + 1].weight.grad)
            torch.testing.assert_close(betas[place].grad[k], network[convolution + 1].bias.grad)


def test_weights_may_lie_apart_in_an_arena():
    case = Case(SHAPES["3 to 16"], torch.float32)
    arena = torch.randn(3, 1000)
    apart = arena[:, 8 : 8 + case.weight[0].numel()].view(case.weight.shape)
    apart.copy_(case.weight)
    expected = conv_bn(*case.arguments[:4])
    assert all(
        torch.equal(*pair) for pair in zip(conv_bn(case.input, apart, case.scale, case.shift), expected, strict=True)
    )


def test_autocast_changes_nothing():
    x, weight = torch.randn(2, 3, 5, 5, 3), torch.randn(2, 4, 3, 3, 3)
    found = []
    for enabled in (False, True):
        images, kernel = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out, mean, _ = conv_bn(images, kernel, torch.ones(2, 3), torch.zeros(2, 3))
            (out.square().sum() + mean.sum()).backward()
        found.append([out.detach(), mean.detach(), images.grad, kernel.grad])
    assert all(one.dtype == torch.float32 and torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_images_one_pixel_wide_have_the_gradient_of_the_reference_in_bfloat16():
    torch.manual_seed(0)
    for channels in (4, 16, 20):
        x = torch.randn(1, 4, 9, 1, channels).bfloat16()
        weight = torch.randn(1, 16, 3, 3, channels).bfloat16().requires_grad_()
        wide = weight.detach().double().requires_grad_()
        gradient = torch.randn(1, 4, 5, 1, 16)
        conv_bn(x, weight, stride=2)[0].backward(gradient.bfloat16())
        reference(x.double(), wide, stride=2)[0].backward(gradient.bfloat16().double())
        torch.testing.assert_close(weight.grad.double(), wide.grad, rtol=2e-2, atol=1e-1)


def test_what_is_not_a_number_stays_none():
    x = torch.randn(2, 3, 5, 5, 3)
    x[1, 2, 3, 3, 0] = float("nan")
    out, mean, _ = conv_bn(x, torch.randn(2, 4, 3, 3, 3), torch.ones(2, 3), torch.zeros(2, 3))
    assert out[1, 2, 2:5, 2:5].isnan().all() and mean[1].isnan().all() and not out[0].isnan().any()


@pytest.mark.parametrize("normalized", [False, True])
def test_is_an_operator_that_compiles(normalized):
    case = Case((2, 3, 5, 4, 3, 4, 3, 2), torch.float32, normalized=normalized)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.sparselt.conv_bn.default, case.arguments, test_utils=tests)
    out, mean, _ = cpu.conv_bn(*case.arguments)
    back = case.gradient, out, *case.through_statistics(out, mean), *case.arguments
    torch.library.opcheck(torch.ops.sparselt.conv_bn_by_weight.default, back, test_utils=tests)
    torch.library.opcheck(torch.ops.sparselt.conv_bn_by_input.default, back, test_utils=tests)

    def step(x, weight):
        out, mean, var = conv_bn(x * 2, weight, case.scale, case.shift, stride=2)
        return F.relu(out).sum() + (mean * var).sum()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = [case.input.clone().requires_grad_(), case.weight.clone().requires_grad_()]
        function(*leaves).backward()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


X, W, S = torch.randn(2, 3, 5, 5, 4), torch.randn(2, 6, 3, 3, 4), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": X.half()}, "input is torch.float16, weight torch.float32: expected both one of torch.float32"),
        ({"weight": W.bfloat16()}, "weight torch.bfloat16: expected both one of"),
        ({"input": X[0]}, r"input is \(3, 5, 5, 4\): expected \(K, N, H, W, Cin\)"),
        ({"input": X[:, :0]}, "without a 0"),
        ({"weight": W[:1]}, r"weight is \(1, 6, 3, 3, 4\): expected .* K = 2 and Cin = 4"),
        ({"weight": W[:, :, :2, :2].contiguous()}, "side 3 or 1"),
        ({"weight": W[..., :1].expand_as(W)}, "weight has strides .* expected each network's part to be contiguous"),
        ({"input": X.transpose(2, 3)}, "input has strides"),
        ({"stride": 3}, "stride is 3: expected 1 or 2"),
        ({"stride": 2.0}, r"stride is 2\.0: expected 1 or 2"),
        ({"input": [1.0]}, "input is a list: expected a Tensor"),
        ({"weight": W[:, :0]}, r"weight is \(2, 0, 3, 3, 4\): expected .* without a 0"),
        ({"shift": None}, "one of scale and shift is None: expected both or none"),
        ({"scale": S[:, :3]}, r"scale is torch.float32 \(2, 3\) .* expected torch.float32 \(2, 4\), contiguous"),
        ({"shift": S.double()}, "shift is torch.float64"),
        ({"scale": S.to("meta")}, "scale is on meta: expected cpu"),
        ({"input": X.to("meta"), "weight": W.to("meta")}, "scale is on cpu: expected meta"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    given = {"input": X, "weight": W, "scale": S, "shift": S} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        conv_bn(**given)


def test_a_network_with_2_to_the_31_numbers_is_refused():
    large = torch.empty(1, 2**11, 2**9, 2**9, 4, device="meta")
    with pytest.raises(ValueError, match=r"2\^31 numbers a network or more: split the batch"):
        conv_bn(large, torch.empty(1, 4, 1, 1, 4, device="meta"))


def test_the_reference_is_torchs_convolution():
    x = torch.randn(1, 2, 4, 5, 3, dtype=torch.float64)
    weight = torch.randn(1, 6, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x[0].permute(0, 3, 1, 2), weight[0].permute(0, 3, 1, 2), padding=1)
    torch.testing.assert_close(reference(x, weight)[0][0].permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_comparison_compares_equal_results(stride):
    layer = Layer(3, 7, 9, 4, 6, stride=stride)
    comparison = Comparison(conv_bn, layer, 2, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(comparison.ours(), torch.stack(comparison.library()))


def test_without_a_gpu_the_library_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not faster_than_library(Layer(128, 32, 32, 16, 16), 8)
