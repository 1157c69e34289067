"""Convolution, addition and ReLU in one call, in evaluation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

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
def test_float32_has_the_bits_of_single_calls_and_bfloat16_is_no_less_exact(precision, monkeypatch):
    model = build_model("resnet20", classes=10, channels=3, seed=0)
    torch.manual_seed(0)
    images = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model(images)
    exact = model.eval()(images)
    fused = Folded(model).load(model.state_dict())
    monkeypatch.setattr("sparselt.training.folding.fuse_convolutions_", lambda module: None)
    single = Folded(model).load(model.state_dict())
    with torch.no_grad(), autocast(images.device, precision):
        outputs = [network(images).float() for network in (fused, single)]
    if precision == "float32":
        assert torch.equal(*outputs)
    ours, theirs = ((found - exact).square().mean().sqrt() for found in outputs)
    assert ours <= 1.1 * theirs


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


def test_convolutions_and_relus_with_hooks_stay():
    """Those of `torch.nn.utils.prune` compute the weight, from what the state dict holds."""
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    prune.random_unstructured(model[0], "weight", 0.5)
    model[3].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))  # before this, torch cannot copy a pruned network
    folded = Folded(model)
    seen.clear()
    images, state = torch.randn(2, 3, 8, 8), {name: 2 * tensor for name, tensor in model.state_dict().items()}
    state["0.weight_mask"] = model[0].weight_mask
    with torch.no_grad():
        got = folded.load(state)(images)
        model.load_state_dict(state)
        torch.testing.assert_close(got, model(images))
    assert len(seen) == 2 and not any(n.target is convolution_relu for n in folded.module.graph.nodes)
