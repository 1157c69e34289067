"""Training with fused norms: results and state are the network's own; a network that cannot be fused is refused."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt.errors import SettingError
from sparselt.models import build_model
from sparselt.training.fused_norm import FusedNorm, fused_forward
from sparselt.training.loop import forward_passes
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule


def both(model: nn.Module, images: torch.Tensor):
    """Loss, gradients and state of the network's own forward pass and of the fused one."""
    answers = []
    for fused in (False, True):
        network = copy.deepcopy(model).train()
        forward = fused_forward(network) if fused else network
        loss = F.cross_entropy(forward(images), torch.arange(len(images)) % 10)
        loss.backward()
        answers.append((loss.detach(), [p.grad for p in network.parameters()], network.state_dict()))
    return answers


@pytest.mark.parametrize(
    ("name", "norms", "relus", "additions"), [("resnet8", 9, 7, 3), ("resnet20", 21, 19, 9), ("vgg19", 16, 16, 0)]
)
def test_in_float64_nothing_changes_but_the_number_of_operations(name, norms, relus, additions):
    model = build_model(name, classes=10, channels=3, seed=0).double()
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    (loss, gradients, state), (fused_loss, fused_gradients, fused_state) = both(model, images)
    torch.testing.assert_close(fused_loss, loss, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    assert list(fused_state) == list(state)
    for key, tensor in state.items():
        torch.testing.assert_close(fused_state[key], tensor, rtol=1e-10, atol=1e-10)
    graph = fused_forward(model)
    assert list(graph.state_dict()) == list(state)
    fused = [module for module in graph.modules() if isinstance(module, FusedNorm)]
    taken = [node for node in graph.graph.nodes if node.op == "call_module" and str(node.target).endswith("_fused")]
    assert len(fused) == norms and sum(module.relu for module in fused) == relus
    assert sum(len(node.args) == 2 for node in taken) == additions
    assert not any(node.target in (F.relu, torch.relu) for node in graph.graph.nodes)


def test_a_bottleneck_of_torchvision_is_fused():
    model = build_model("resnet50", classes=10, channels=3, seed=0)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    (loss, _, _), (fused_loss, _, _) = both(model, images)
    torch.testing.assert_close(fused_loss, loss, rtol=1e-4, atol=1e-4)
    graph = fused_forward(model)
    assert sum(isinstance(module, FusedNorm) and module.relu for module in graph.modules()) == 49


class Reads(nn.Module):
    """The output of its norm is read twice, the sum by something else than ReLU."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        z = self.other(F.relu(y) + torch.sigmoid(y))
        return (z + z).flatten(1)[:, :10]


def test_what_others_read_is_left_as_it_is():
    images = torch.randn(5, 3, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    model = Reads().double().to(memory_format=torch.channels_last)
    (loss, gradients, _), (fused_loss, fused_gradients, _) = both(model, images)
    torch.testing.assert_close(fused_loss, loss, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_recipe_asks_for_it_and_its_training_is_another():
    recipe = Recipe("resnet8", 8, 4, Schedule("constant", 0.1), fused_norm=True)
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    (forward,) = forward_passes([model], recipe)
    images = torch.randn(8, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(forward(images), model.train()(images), rtol=1e-4, atol=1e-5)
    assert model.norm.num_batches_tracked == 2
    (compiled,) = forward_passes([model], dataclasses.replace(recipe, compile=True))
    torch.testing.assert_close(compiled(images), forward(images), rtol=1e-4, atol=1e-5)


def test_under_autocast_activations_are_bfloat16():
    model = build_model("resnet20", classes=10, channels=3, seed=0).train()
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    seen = []
    graph = fused_forward(model)
    for module in graph.modules():
        if isinstance(module, FusedNorm):
            module.register_forward_hook(lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        graph(images)
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)} and len(seen) == 21


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x) if x.sum() > 0 else x


class Switches(nn.Module):
    """Computes its second half within a context, which a graph of its calls would not show."""

    def __init__(self, context):
        super().__init__()
        self.norm, self.last, self.context = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), context

    def forward(self, x):
        x = self.norm(x)
        with self.context:
            return self.last(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3, 3)),
            "Sequential has no batch norm that is called once, with weight, bias and momentum",
        ),
        (
            nn.Sequential(nn.BatchNorm2d(3, affine=False)),
            "has no batch norm that is called once, with weight, bias and momentum",
        ),
        (Decides(), "Decides cannot be traced"),
        (
            Switches(torch.autocast("cpu", enabled=False)),
            "cannot be traced: a part of it switches autocast or gradients",
        ),
        (Switches(torch.no_grad()), "cannot be traced: a part of it switches autocast or gradients"),
    ],
)
def test_networks_that_cannot_be_fused_are_named(model, message):
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(SettingError, match=f"fused_norm: .*{message}"),
    ):
        fused_forward(model)


def test_norms_with_hooks_stay():
    seen = []
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()).train()
    model[0].register_forward_hook(lambda *_: seen.append(1))
    graph = fused_forward(model)
    images = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(graph(images), model(images), rtol=1e-4, atol=1e-5)
    assert len(seen) == 2 and sum(isinstance(module, FusedNorm) for module in graph.modules()) == 1


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return F.dropout(self.norm(x), 0.5, self.training)


def test_a_call_in_eval_mode_is_refused_because_the_graph_is_one_of_training():
    model = Drops().eval()
    graph = fused_forward(model)
    images = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    with pytest.raises(SettingError, match=r"of Drops is one of training, and Drops is in eval mode: evaluate with"):
        graph(images)
    model.train()
    model.norm.eval()  # frozen, which is another thing
    assert (graph(images) == 0).any()
    graph.eval()
    with pytest.raises(SettingError, match="in eval mode"):
        graph(images)
