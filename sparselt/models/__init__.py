"""Networks of the papers, by name."""

import functools
from collections.abc import Callable

import torch
from torch import nn

from sparselt.errors import SettingError
from sparselt.masks import prunable_parameters
from sparselt.models.blurpool import apply_blurpool_
from sparselt.models.cifar_resnet import CifarResNet
from sparselt.models.initialization import Initialization, NormScale, initialize_
from sparselt.models.small import VGG19, Conv4, LeNet, ResNet18

__all__ = ["MODELS", "build_model", "check_model", "initialize_", "prunable_shapes"]


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


def resnet50_blurpool(classes: int, channels: int) -> nn.Module:
    """`resnet50` with every downsampling blurred first, see `apply_blurpool_`; its weights have the same names."""
    model = resnet50(classes, channels)
    apply_blurpool_(model)
    return model


def inception_v3(classes: int, channels: int) -> nn.Module:
    """torchvision's Inception-v3 with its auxiliary classifier, whose output in training `training_loss` weighs.

    27,123,040 prunable weights for 1000 classes; images of 75 pixels or more, 299 in Szegedy et al. 2016.
    """
    from torchvision.models import inception_v3 as build

    return build(weights=None, num_classes=classes, aux_logits=True, init_weights=True, transform_input=False)


def squeezenet(classes: int, channels: int) -> nn.Module:
    """torchvision's SqueezeNet 1.0 (Iandola et al. 2016); 1,244,448 prunable weights for 1000 classes."""
    from torchvision.models import squeezenet1_0 as build

    return build(weights=None, num_classes=classes)


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "lenet_300_100": LeNet,
    "conv4": Conv4,
    "vgg19": VGG19,
    "resnet18": ResNet18,
    "resnet50": resnet50,
    "resnet50_blurpool": resnet50_blurpool,
    "inception_v3": inception_v3,
    "squeezenet": squeezenet,
}

_COLOUR = ("resnet50", "resnet50_blurpool", "inception_v3", "squeezenet")
_EXACT_SIDES = {"lenet_300_100": 28, "conv4": 32}
_LEAST_SIDES = {
    **{"resnet8": 4, "resnet20": 4, "resnet18": 8, "vgg19": 16, "resnet50_blurpool": 17, "squeezenet": 32},
    **{"inception_v3": 75},
}


@functools.cache
def prunable_shapes(name: str, classes: int, channels: int) -> dict[str, torch.Size]:
    """The shape of every prunable weight of a network, in its order, without building it in memory."""
    check_model(name, channels)
    with torch.device("meta"):
        return {weight: parameter.shape for weight, parameter in prunable_parameters(MODELS[name](classes, channels))}


def build_model(
    name: str,
    *,
    classes: int,
    channels: int,
    seed: int,
    initialization: Initialization = "torch",
    norm_scale: NormScale = "ones",
) -> nn.Module:
    """A fresh network in channels-last layout whose initial weights are a function of `seed` alone.

    Args:
        name: a key of `MODELS`.
        classes: number of outputs.
        channels: channels of the input images.
        seed: initialization seed; the global random state is left as it was.
        initialization, norm_scale: see `initialize_`.

    Raises:
        SettingError: unknown name, or a network that cannot take such images.
    """
    check_model(name, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](classes, channels)
        initialize_(model, initialization, norm_scale)
    return model.to(memory_format=torch.channels_last)


def check_model(name: str, channels: int, side: int | None = None) -> None:
    """Raises a SettingError for an unknown network, or one that cannot take images of these channels and side."""
    if name not in MODELS:
        raise SettingError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    if name in _COLOUR and channels != 3:
        raise SettingError(f"{name} takes images of 3 channels, not {channels}; choose a data set of colour images")
    exact, least = _EXACT_SIDES.get(name), _LEAST_SIDES.get(name, 1)
    if side is not None and exact is not None and side != exact:
        raise SettingError(f"{name} takes images of {exact}×{exact} pixels, not {side}; choose another model or data")
    if side is not None and side < least:
        raise SettingError(f"{name} takes images of {least} pixels a side or more, not {side}")
