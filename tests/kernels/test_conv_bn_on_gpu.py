"""conv_bn on a CUDA device against the float64 reference. `make gpu` runs these."""

import pytest
import torch
from conv_cases import SHAPES, TOLERANCE, Case
from norm_cases import assert_close

from sparselt.kernels.conv_bn import Layer, conv_bn, faster_than_library, gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LARGE = {"a layer of ResNet-20": (2, 128, 32, 32, 16, 16, 3, 1), "many tiles": (1, 300, 56, 56, 64, 64, 3, 1)}


def on_device(case: Case) -> Case:
    case.__dict__.update({n: value.cuda() for n, value in vars(case).items() if isinstance(value, torch.Tensor)})
    return case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalized", [False, True], ids=["", "normalized"])
@pytest.mark.parametrize("name", [*SHAPES, *LARGE])
def test_agrees_with_the_reference(name, normalized, dtype):
    case = on_device(Case((SHAPES | LARGE)[name], dtype, normalized=normalized))
    found = case.results(gpu)
    assert_close(found, case.answers(found["out"]), (4 if name in SHAPES else 16) * TOLERANCE[dtype])


def test_a_network_gets_the_same_bits_alone_and_among_eight_and_again():
    case = on_device(Case((8, 128, 32, 32, 16, 16, 3, 1), torch.bfloat16))
    together, alone = case.results(gpu), case.of(slice(5, 6)).results(gpu)
    again = case.of(slice(5, 6)).results(gpu)
    for name, found in together.items():
        assert torch.equal(found[5], alone[name][0]) and torch.equal(alone[name], again[name]), name


def test_a_graph_replays_forward_and_backward():
    case = on_device(Case((4, 16, 16, 16, 16, 32, 3, 2), torch.bfloat16))
    leaves = [leaf.requires_grad_() for leaf in (case.input, case.weight, case.scale, case.shift)]

    def step() -> tuple[torch.Tensor, ...]:
        made = conv_bn(*leaves, stride=2)
        return *made, *torch.autograd.grad(made, leaves, [case.gradient, case.by_mean, case.by_var])

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = step()  # compiles the kernels, which a capture cannot
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for _ in range(3):
        graph.replay()
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_choice_is_measured_once():
    layer = Layer(16, 16, 16, 16, 16)
    assert faster_than_library(layer, 2) in (False, True)
    assert faster_than_library(layer, 2) == faster_than_library(layer, 2)
