"""The loop's options, each against plain lines; the papers' protocol is in test_science.py."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt import MaskedSGD
from sparselt.data.batch import Batch
from sparselt.training import loop
from sparselt.training.recipe import TECHNIQUES, Recipe, Techniques, training_side
from sparselt.training.schedule import Schedule
from sparselt.training.techniques import smoothed_bce

STEPS, BATCH, SIDE = 45, 8, 16
PLAIN = Recipe("none", BATCH, STEPS, Schedule("step", 0.05))


class Loader:
    steps_per_epoch = 15

    def epoch(self, epoch: int, start_step: int = 0):
        def batches():
            for step in range(start_step, self.steps_per_epoch):
                generator = torch.Generator().manual_seed(1000 * epoch + step)
                labels = torch.randint(5, (BATCH,), generator=generator)
                images = torch.randn(BATCH, 1, SIDE, SIDE, generator=generator) + labels.view(-1, 1, 1, 1)
                yield Batch(images, labels, torch.arange(BATCH))

        return batches()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def trained(recipe: Recipe, **options) -> nn.Module:
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    loop.train(model, optimizer, Loader(), recipe, **options)
    return model


def by_hand(loss, recipe: Recipe, side=lambda step: SIDE, on_step=lambda model: None) -> nn.Module:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for step in range(STEPS):
        batch = next(iter(Loader().epoch(step // 15, step % 15)))
        images = F.interpolate(batch.images, size=side(step), mode="bilinear") if side(step) < SIDE else batch.images
        optimizer.zero_grad()
        loss(model(images), batch.labels).backward()
        optimizer.step()
        on_step(model)
    return model


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def different(first: nn.Module, second: nn.Module) -> bool:
    return any(
        not torch.allclose(p, q, atol=1e-3) for p, q in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_have_the_gradient_of_the_whole_batch(parts):
    assert_equal(trained(dataclasses.replace(PLAIN, micro_batches=parts)), trained(PLAIN))


def test_label_smoothing_is_torchs():
    recipe = dataclasses.replace(PLAIN, techniques=Techniques(label_smoothing=0.1))
    expected = by_hand(nn.CrossEntropyLoss(label_smoothing=0.1), recipe)
    assert_equal(trained(recipe), expected)
    assert different(expected, trained(PLAIN))


def test_bce_is_minimized_where_it_is_named():
    recipe = dataclasses.replace(PLAIN, techniques=Techniques(bce=True, label_smoothing=0.08))
    assert_equal(trained(recipe), by_hand(lambda outputs, labels: smoothed_bce(outputs, labels, 0.08), recipe))


def test_images_grow_in_the_course_of_training():
    recipe = dataclasses.replace(PLAIN, techniques=Techniques(progressive_resizing=True))
    expected = by_hand(nn.CrossEntropyLoss(), recipe, side=lambda step: training_side(SIDE, step, STEPS))
    assert_equal(trained(recipe), expected)
    assert different(expected, trained(PLAIN))


def test_a_training_with_a_weight_average_ends_as_the_average_of_what_it_was():
    states: list[nn.Module] = []
    recipe = dataclasses.replace(PLAIN, techniques=Techniques(ema_half_life=20))
    expected = by_hand(nn.CrossEntropyLoss(), recipe, on_step=lambda model: states.append(copy.deepcopy(model)))
    with torch.no_grad():
        for p, first, second in zip(*(m.parameters() for m in (expected, states[19], states[39])), strict=True):
            p.copy_((first + second) / 2)
    seen: dict[int, nn.Module] = {}
    assert_equal(trained(recipe, on_step=lambda step: seen.setdefault(step, None)), expected)
    assert list(seen) == list(range(STEPS + 1))


def test_a_network_is_compiled_only_where_the_recipe_says_so():
    """Not run here: compiling takes ten times as long as all the rest of this file."""
    model = network()
    assert loop.forward_passes([model], PLAIN) == [model]
    (forward,) = loop.forward_passes([model], dataclasses.replace(PLAIN, compile=True))
    assert isinstance(forward, torch._dynamo.OptimizedModule) and forward._orig_mod is model


def test_the_mild_recipe_trains_and_starts_anywhere():
    recipe = dataclasses.replace(PLAIN, techniques=TECHNIQUES["mild"])
    model = trained(recipe, start_step=40)
    assert all(torch.isfinite(p).all() for p in model.parameters())
