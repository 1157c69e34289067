"""Convolution, addition and ReLU in one call, in evaluation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt.models import build_model
from sparselt.training.folding import Folded
from sparselt.training.fused_convolution import convolution_relu
from sparselt.training.loop import autocast


@pytest.mark.parametrize(("name", "calls", "additions"), [("resnet20", 19, 9), ("vgg19", 16, 0), ("conv4", 4, 0)])
def test_every_convolution_before_a_relu_is_one_call(name, calls, additions):
    model = build_model(name, classes=10, channels=3, seed=0)
    nodes = [node for node in Folded(model).module.graph.nodes if node.target is convolution_relu]
    assert len(nodes) == calls and sum(node.args[3] is not None for node in nodes) == additions


def test_a_bottleneck_of_torchvision_is_fused():
    folded = Folded(build_model("resnet50", classes=10, channels=3, seed=0))
    assert sum(node.target is convolution_relu for node in folded.module.graph.nodes) == 49


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_outputs_are_those_of_the_network(precision):
    model = build_model("resnet20", classes=10, channels=3, seed=0)
    images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model(images)
    exact = model.eval()(images)
    with torch.no_grad(), autocast(images.device, precision):
        ours, theirs = Folded(model).load(model.state_dict())(images), model(images)
    allowed = 1e-5 if precision == "float32" else 1.2 * (theirs.float() - exact).abs().max().item()
    assert (ours.float() - exact).abs().max() <= max(allowed, 1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounds_once(dtype, residual):
    x, r = (torch.randn(4, 8, 9, 9).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight, bias = torch.randn(8, 8, 3, 3).to(dtype), torch.randn(8).to(dtype)
    how = (1, 1), (1, 1), (1, 1), 1
    with torch.no_grad():
        got = convolution_relu(x, weight, bias, r if residual else None, *how)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), 1, 1) + (r.double() if residual else 0)
    torch.testing.assert_close(got.double(), exact.relu(), rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        y = self.second(F.relu(self.first(x)))
        return F.relu(y) + torch.sigmoid(y) + F.relu(self.third(y))


def test_what_others_read_and_other_paddings_stay_as_they_are():
    model, images = Reads().eval(), torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), model).eval()
    folded = Folded(model)
    assert not any(node.target is convolution_relu for node in folded.module.graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(folded.load(model.state_dict())(images), model(images))
