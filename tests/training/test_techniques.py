import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt.models import build_model
from sparselt.training.recipe import training_side
from sparselt.training.techniques import (
    WeightAverage,
    resize,
    smoothed_bce,
    start_bias_for_bce_,
)


def test_bce_equals_a_sum_over_classes_of_binary_losses():
    outputs, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    targets = F.one_hot(labels, 5).double() * 0.92 + 0.08 / 5
    p = torch.sigmoid(outputs)
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(smoothed_bce(outputs, labels, 0.08), expected)


def test_the_bias_for_bce_makes_every_class_equally_unlikely():
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    start_bias_for_bce_(model, 10)
    assert model.fc.bias.tolist() == pytest.approx([-math.log(10)] * 10)


def test_sides_begin_at_half_end_whole_and_grow_by_fours():
    sides = [training_side(176, step, 1000) for step in range(1000)]
    assert sides[0] == sides[500] == 88
    assert sides[800] == sides[999] == 176
    assert sides == sorted(sides) and all(side % 4 == 0 for side in sides)
    assert training_side(30, 999, 1000) == 30
    assert max(b - a for a, b in itertools.pairwise(sides)) == 4


def test_resize_halves_by_averaging_and_leaves_equal_sizes_alone():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize(images, 4) is images
    assert torch.equal(resize(images, 2)[0, 0], F.avg_pool2d(images, 2)[0, 0])


def test_the_average_halves_the_distance_in_a_half_life():
    model = nn.BatchNorm1d(3)
    average = WeightAverage(half_life=100)
    average.copy_to(model)
    assert torch.equal(model.weight, torch.ones(3))
    average.update(model, 0)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(4.0)
    for step in range(1, 101):
        average.update(model, step)
    average.copy_to(model)
    torch.testing.assert_close(model.weight.detach(), torch.full((3,), 1.5))
    torch.testing.assert_close(model.running_mean, torch.full((3,), 2.0))
