"""Networks of the papers, by name."""

from collections.abc import Callable

import torch
from torch import nn

from sparselt.errors import SettingError
from sparselt.models.cifar_resnet import CifarResNet


def resnet8(classes: int, channels: int) -> nn.Module:
    """The digits miniature: one block a stage, widths 8-16-32; 19,464 prunable weights for 1 channel, 10 classes."""
    return CifarResNet(classes, channels, blocks=1, widths=(8, 16, 32))


def resnet20(classes: int, channels: int) -> nn.Module:
    """ResNet-20: three blocks a stage, widths 16-32-64; 270,896 prunable weights for 3 channels, 10 classes."""
    return CifarResNet(classes, channels, blocks=3, widths=(16, 32, 64))


def resnet50(classes: int, channels: int) -> nn.Module:
    """torchvision's ResNet-50, its own initialization (Kaiming normal, fan out)."""
    from torchvision.models import resnet50 as build

    return build(weights=None, num_classes=classes)


MODELS: dict[str, Callable[[int, int], nn.Module]] = {"resnet8": resnet8, "resnet20": resnet20, "resnet50": resnet50}


def build_model(name: str, *, classes: int, channels: int, seed: int) -> nn.Module:
    """A fresh network in channels-last layout whose initial weights are a function of `seed` alone.

    Args:
        name: a key of `MODELS`.
        classes: number of outputs.
        channels: channels of the input images.
        seed: initialization seed; the global random state is left as it was.

    Raises:
        SettingError: unknown name, or a network that cannot take such images.
    """
    check_model(name, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](classes, channels)
    return model.to(memory_format=torch.channels_last)


def check_model(name: str, channels: int) -> None:
    """Raises a SettingError for an unknown network, or one that cannot take images of so many channels."""
    if name not in MODELS:
        raise SettingError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    if name == "resnet50" and channels != 3:
        raise SettingError(f"resnet50 takes images of 3 channels, not {channels}; choose a data set of colour images")
