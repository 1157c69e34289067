"""A step spared of casts and counters against plain lines of torch, to the bit; where torch's own way is kept."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sparselt import Mask
from sparselt.data.batch import Batch
from sparselt.models import build_model
from sparselt.optim import build_optimizer
from sparselt.training import loop
from sparselt.training.fused_norm import fused_forward
from sparselt.training.recipe import Recipe, Techniques
from sparselt.training.schedule import Schedule

STEPS, BATCH = 7, 16
RECIPE = Recipe("resnet8", BATCH, STEPS, Schedule("step", 0.1, (4,)), weight_decay=0.01, precision="bfloat16")


def change(**options) -> Recipe:
    return dataclasses.replace(RECIPE, **options)


class Loader:
    steps_per_epoch = 5

    def epoch(self, epoch: int, start_step: int = 0):
        def batches():
            for step in range(start_step, self.steps_per_epoch):
                yield batch(5 * epoch + step)

        return batches()


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.randint(10, (BATCH,), generator=generator), torch.arange(BATCH))


def resnet() -> nn.Module:
    return build_model("resnet8", classes=10, channels=3, seed=0).to(memory_format=torch.channels_last)


def mask_of(model: nn.Module) -> Mask:
    generator = torch.Generator().manual_seed(0)
    layers = Mask.ones_like(model)
    return Mask({name: torch.rand(layer.shape, generator=generator) < 0.4 for name, layer in layers.items()})


def plain(model: nn.Module, recipe: Recipe, mask, on_step=lambda step: None, penalty=None):
    """The training in torch's way: autocast casts, norms count. Returns the optimizer."""
    optimizer = build_optimizer(recipe, model.named_parameters(), mask)
    model.train()
    forward = fused_forward(model) if recipe.fused_norm else model
    for step in range(STEPS):
        on_step(step)
        images, labels, _ = batch(step)
        optimizer.param_groups[0]["lr"] = recipe.schedule.learning_rate(step, STEPS)
        optimizer.zero_grad()
        parts = recipe.micro_batches
        for some, theirs in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = forward(some)
                loss = F.cross_entropy(outputs.float(), theirs, label_smoothing=recipe.techniques.label_smoothing)
            (loss / parts).backward()
        if penalty is not None:
            penalty(model).backward()
        optimizer.step()
    on_step(STEPS)
    return optimizer


def assert_same_training(make, recipe: Recipe, copies: bool, mask=None, on_step=lambda model, step: None, **options):
    """Weights, buffers and state of the optimizer, to the bit. copies: whether the optimizer kept copies of weights."""
    ours, theirs = make(), make()
    optimizer, used = build_optimizer(recipe, ours.named_parameters(), mask), []

    def watch(step):
        on_step(ours, step)
        if 0 < step < STEPS:
            used.append(bool(optimizer._copies))

    loop.train(ours, optimizer, Loader(), recipe, on_step=watch, **options)
    expected = plain(theirs, recipe, mask, lambda step: on_step(theirs, step), options.get("penalty"))
    assert used == [copies] * (STEPS - 1) and not optimizer._copies
    for (name, tensor), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    for name, entry in expected.named_state().items():
        assert all(torch.equal(entry[key], optimizer.named_state()[name][key]) for key in entry), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fused_norm": True, "nesterov": True},
        {"momentum": 0.0, "techniques": Techniques(label_smoothing=0.1)},
        {"decoupled_weight_decay": True},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "rmsprop", "centered": True, "momentum": 0.5},
    ],
    ids=lambda options: options.get("optimizer", next(iter(options), "plain")),
)
def test_copies_of_weights_and_host_counts_change_no_bit(options):
    assert_same_training(resnet, change(**options), copies=True, mask=mask_of(resnet()))


@pytest.mark.parametrize("name", ["vgg19_dense_classifier", "lenet_300_100", "conv4"])
def test_other_networks_keep_their_bits_too(name):
    channels, side = (1, 28) if name == "lenet_300_100" else (3, 32)
    model = build_model(name, classes=10, channels=channels, seed=0).to(memory_format=torch.channels_last).train()
    ours, theirs = model, copy.deepcopy(model)
    images = torch.randn(4, channels, side, side).contiguous(memory_format=torch.channels_last)
    optimizers = [build_optimizer(RECIPE, m.named_parameters()) for m in (ours, theirs)]
    with loop.training_forward(ours, ours, RECIPE, optimizers[0]) as forward:
        assert optimizers[0]._copies
        for call, optimizer in zip((forward, theirs), optimizers, strict=True):
            for _ in range(2):
                optimizer.zero_grad()
                loop.gradients(call, images, torch.arange(4), RECIPE)
                optimizer.step()
        forward.count(4, 1)
        forward.count(4, 1)
    for (key, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(p, q), key


def penalty(model: nn.Module) -> torch.Tensor:
    return 0.01 * sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize("options", [{"micro_batches": 3}, {"micro_batches": 2, "fused_norm": True}])
def test_micro_batches_are_added_in_float32(options):
    assert_same_training(resnet, change(**options), copies=False, mask=mask_of(resnet()))


def test_a_penalty_keeps_its_gradients_in_float32():
    assert_same_training(resnet, RECIPE, copies=False, penalty=penalty)


class Small(nn.Module):
    """One convolution after another, with a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
        self.norm, self.loose = nn.BatchNorm2d(10), nn.BatchNorm2d(10, momentum=None)

    def forward(self, x):
        return self.loose(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3))


class Twice(Small):
    """A convolution and a norm are called twice."""

    def forward(self, x):
        return self.norm(self.second(F.relu(self.norm(self.second(self.first(x)))))).mean((2, 3))


class Standardized(Small):
    """A weight is read outside its convolution."""

    def forward(self, x):
        weight = self.first.weight - self.first.weight.mean()
        return self.norm(self.second(F.conv2d(x, weight) + self.first(x)[..., 1:-1, 1:-1])).mean((2, 3))


class Apart(Small):
    """A convolution is computed in float32."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = self.first(x)
        return self.norm(self.second(x)).mean((2, 3))


class Tied(Small):
    def __init__(self):
        super().__init__()
        self.third = nn.Conv2d(10, 10, 3, padding=1)
        self.third.weight = self.second.weight

    def forward(self, x):
        return self.norm(self.third(F.relu(self.second(self.first(x))))).mean((2, 3))


class Untraceable(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() != 0 else x


class Frozen(Small):
    """A norm stays in eval mode, and a weight does not learn."""

    def __init__(self):
        super().__init__()
        self.first.weight.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        self.norm.eval()
        return self


def hooked() -> nn.Module:
    model = Small()
    model.first.register_forward_hook(lambda *_: None)
    return model


def parameter_hooked() -> nn.Module:
    model = Small()
    model.first.weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return model


def pruned() -> nn.Module:
    model = Small()
    prune.l1_unstructured(model.first, "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (Small, ["first.weight", "first.bias", "second.weight", "second.bias"]),
        (Twice, ["first.weight", "first.bias"]),
        (Standardized, ["second.weight", "second.bias"]),
        (Apart, ["second.weight", "second.bias"]),
        (Tied, ["first.weight", "first.bias", "second.bias", "third.bias"]),
        (Frozen, ["first.bias", "second.weight", "second.bias"]),
        (parameter_hooked, ["first.bias", "second.weight", "second.bias"]),
        (Untraceable, []),
        (hooked, []),
        (pruned, []),
    ],
)
def test_only_weights_that_autocast_casts_once_have_copies(make, copied):
    model = make()
    optimizer = build_optimizer(RECIPE, model.named_parameters())
    names = {p: name for name, p in model.named_parameters()}
    with loop.training_forward(model.train(), model, RECIPE, optimizer):
        assert [names[p] for p in optimizer._copies] == copied
    assert_same_training(make, RECIPE, copies=bool(copied))


def test_hooks_of_the_optimizer_see_the_weights_own_gradients():
    model, seen = Small(), []
    optimizer = build_optimizer(RECIPE, model.named_parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append(model.first.weight.grad is not None))
    loop.train(model, optimizer, Loader(), RECIPE)
    assert seen == [True] * STEPS


def test_weights_that_a_watcher_writes_are_used_by_the_next_step():
    def on_step(model, step):
        if step == 3:
            with torch.no_grad():
                next(model.parameters()).mul_(0.5)

    assert_same_training(resnet, RECIPE, copies=True, mask=mask_of(resnet()), on_step=on_step)


@pytest.mark.parametrize("options", [{}, {"precision": "float32"}, {"micro_batches": 3}, {"fused_norm": True}], ids=str)
def test_every_reading_of_a_state_counts_the_batches_so_far(options):
    model, recipe = resnet(), change(**options)
    optimizer = build_optimizer(recipe, model.named_parameters())
    parts = len(torch.empty(BATCH).chunk(recipe.micro_batches))
    start = copy.deepcopy(model.state_dict())

    def on_step(step):
        expected = step * parts if step < 6 else (step - 5) * parts
        if step in (2, 3, 5, 6):
            states = model.state_dict(), copy.deepcopy(model).state_dict(), model.norm.state_dict(prefix="norm.")
            assert all(state["norm.num_batches_tracked"] == expected for state in states)
        if step == 5:
            model.load_state_dict(start)  # replaces what has been counted

    loop.train(model, optimizer, Loader(), recipe, on_step=on_step)
    assert all(m.num_batches_tracked == 2 * parts for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert not model.norm._state_dict_pre_hooks and not model.norm._load_state_dict_pre_hooks


def test_no_norm_with_momentum_counts_on_the_device():
    model = Small().train()
    with loop.training_forward(model, model, RECIPE, build_optimizer(RECIPE, model.named_parameters())) as forward:
        with torch.autocast("cpu", torch.bfloat16):
            forward(batch(0).images)
        assert model.norm.num_batches_tracked == 0 and model.loose.num_batches_tracked == 1
        forward.count(BATCH, 1)
    assert model.norm.num_batches_tracked == 1
