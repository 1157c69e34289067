"""A network of your own: a function of (classes, channels)."""

from torch import nn

from sparselt.models import model


@model(side=8)
def small_cnn(classes: int, channels: int) -> nn.Module:
    """Two convolutions and a linear layer for images of 8×8 pixels: 2,940 prunable weights for ten classes."""
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, classes),
    )
