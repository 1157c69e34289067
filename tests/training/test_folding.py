import gc
import weakref

import pytest
import torch
from torch import nn

from sparselt.analysis import evaluate_path
from sparselt.models import build_model
from sparselt.training.folding import Folded


def lived_in(name: str, channels: int, side: int, classes: int = 10, seed: int = 0) -> nn.Module:
    """A network whose norms have seen data, so that folding them changes every weight."""
    model = build_model(name, classes=classes, channels=channels, seed=seed, norm_scale="uniform")
    torch.manual_seed(seed)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, channels, side, side) + 0.3)
    return model


@pytest.mark.parametrize(
    ("name", "channels", "side", "norms"),
    [("resnet8", 1, 8, 9), ("resnet20", 3, 32, 21), ("vgg19", 3, 32, 16), ("resnet50_blurpool", 3, 64, 53)],
)
def test_every_norm_is_folded_and_the_outputs_stay(name, channels, side, norms):
    model = lived_in(name, channels, side)
    folded = Folded(model)
    images = torch.randn(4, channels, side, side)
    outputs = folded.load(model.state_dict())(images)
    assert len(folded._pairs) == norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.module.modules())
    model.eval()
    torch.testing.assert_close(outputs, model(images), rtol=1e-4, atol=1e-4)


def test_one_folded_network_serves_many_states_and_leaves_the_model_alone():
    first, second = lived_in("resnet8", 1, 8), lived_in("resnet8", 1, 8, seed=1)
    kept = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    folded = Folded(first.train())
    images = torch.randn(4, 1, 8, 8)
    for model in (first, second, first):
        expected = model.eval()(images)
        torch.testing.assert_close(folded.load(model.state_dict())(images), expected, rtol=1e-4, atol=1e-5)
        model.train()
    assert first.training and all(torch.equal(tensor, kept[name]) for name, tensor in first.state_dict().items())


def test_networks_side_by_side_are_folded_as_each_alone():
    models = [lived_in("resnet8", 1, 8, seed=seed) for seed in range(3)]
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    folded = Folded(models[0])
    rows = folded.fold_({name: torch.stack([state[name] for state in states]) for name in states[0]})
    for k, state in enumerate(states):
        alone = folded.load(state).state_dict()
        assert all(torch.equal(rows[name][k], tensor) for name, tensor in alone.items())
        assert all(torch.equal(tensor, models[k].state_dict()[name]) for name, tensor in state.items())


def test_a_weight_that_two_convolutions_share_keeps_its_norms():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.conv2.weight = self.conv1.weight
            self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm2(self.conv2(self.norm1(self.conv1(x))))

    model, images = Tied(), torch.randn(4, 4, 8, 8)
    with torch.no_grad():
        model(images)
    folded = Folded(model).load(model.state_dict())
    torch.testing.assert_close(folded(images), model.eval()(images))


def test_a_norm_that_something_else_needs_is_kept():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    model = Both()
    with torch.no_grad():
        model(torch.randn(8, 1, 8, 8))
    folded = Folded(model)
    images = torch.randn(2, 1, 8, 8)
    assert not folded._pairs
    torch.testing.assert_close(folded.load(model.state_dict())(images), model.eval()(images))


def test_a_network_that_cannot_be_traced_is_evaluated_as_it_is():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else self.conv(x)

    model = Branches().eval()
    images = torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(Folded(model).load(model.state_dict())(images), model(images))


@pytest.mark.parametrize("kind", ["made on the way", "attribute", "length"])
def test_a_network_with_a_tensor_that_its_state_dict_has_not_is_evaluated_as_it_is(kind):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.mean = torch.tensor([0.1])

        def forward(self, x):
            if kind == "length":
                return self.norm(self.conv(x[: len(x)]))
            return self.norm(self.conv(x - (torch.tensor([0.1]) if kind == "made on the way" else self.mean)))

    model, images = Centred().eval(), torch.randn(2, 1, 8, 8)
    had = set(vars(model))
    torch.testing.assert_close(Folded(model).load(model.state_dict())(images), model(images), rtol=0, atol=0)
    assert set(vars(model)) == had
    data = [(torch.randn(3, 1, 3, 3), torch.arange(3))]
    model = nn.Sequential(model, nn.Flatten())
    state = model.state_dict()
    path = evaluate_path(model, state, state, data, (0,))
    assert path == evaluate_path(model, state, state, data, (0,), folded=False)


def test_folded_weights_are_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        folded = Folded(build_model("resnet8", classes=10, channels=1, seed=0))
        weights = [weakref.ref(parameter) for parameter in folded.module.parameters()]
        del folded
        assert weights and not any(weight() is not None for weight in weights)
    finally:
        gc.enable()


def test_the_modes_of_a_network_s_parts_stay():
    model = lived_in("resnet8", 1, 8).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    Folded(model)
    assert [module.training for module in model.modules()] == modes
