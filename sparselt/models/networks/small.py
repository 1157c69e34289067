"""Networks of the papers for digits, MNIST and CIFAR."""

from typing import TYPE_CHECKING

from sparselt.models.registry import model

if TYPE_CHECKING:
    from torch import nn


@model(least_side=4, live=True)
def resnet8(classes: int, channels: int) -> "nn.Module":
    """The digits miniature: one block a stage, widths 8-16-32; 19,464 prunable weights for 1 channel, 10 classes."""
    from sparselt.models.residual import CifarResNet

    return CifarResNet(classes, channels, blocks=1, widths=(8, 16, 32))


@model(least_side=8, live=True)
def resnet8_wide(classes: int, channels: int) -> "nn.Module":
    """A miniature for images of 28 pixels: one block a stage, widths 16-32-64, a first convolution of stride 2.

    77,072 prunable weights for 1 channel, 10 classes.
    """
    from sparselt.models.residual import CifarResNet

    return CifarResNet(classes, channels, blocks=1, widths=(16, 32, 64), stride=2)


@model(least_side=4, live=True)
def resnet20(classes: int, channels: int) -> "nn.Module":
    """ResNet-20: three blocks a stage, widths 16-32-64; 270,896 prunable weights for 3 channels, 10 classes."""
    from sparselt.models.residual import CifarResNet

    return CifarResNet(classes, channels, blocks=3, widths=(16, 32, 64))


@model(side=28, live=True)
def lenet_300_100(classes: int, channels: int) -> "nn.Module":
    """LeNet-300-100 (LeCun et al. 1998): two hidden layers, ReLU.

    Input float [N, channels, 28, 28]; output float [N, classes]. 266,200 prunable weights for 1 channel, 10 classes.
    """
    from torch import nn

    hidden = [nn.Linear(channels * 28 * 28, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, classes))


@model(side=32)
def conv4(classes: int, channels: int) -> "nn.Module":
    """Conv-4 (Frankle and Carbin 2019, Fig. 2): two pairs of 3×3 convolutions, each pair followed by max pooling.

    Widths 64, 64, 128, 128, then fully connected layers of 256, 256 and `classes`; biases, no batch norm. Input float
    [N, channels, 32, 32]; output float [N, classes]. 2,425,024 prunable weights for 3 channels, 10 classes.
    """
    from torch import nn

    layers: list[nn.Module] = []
    width = channels
    for out in (64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(width * 8 * 8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, classes))


@model(least_side=16)
def vgg19(classes: int, channels: int) -> "nn.Module":
    """VGG-19 for small images (Simonyan and Zisserman 2015, configuration E, with batch norm and one linear layer).

    Sixteen 3×3 convolutions with biases, max pooling after the 2nd, 4th, 8th and 12th, global average pooling, one
    fully connected layer, as the papers prune it. Input float [N, channels, H, W] with H, W ≥ 16; output float
    [N, classes]. 20,024,000 prunable weights for 3 channels, 10 classes.
    """
    from sparselt.models.vgg import VGG19

    return VGG19(classes, channels)


@model(least_side=16)
def vgg19_dense_classifier(classes: int, channels: int) -> "nn.Module":
    """`vgg19` whose fully connected layer is never pruned, as open_lth has it by default (models/cifar_vgg.py).

    20,018,880 prunable weights for 3 channels, 10 classes.
    """
    from sparselt.models.vgg import VGG19, DenseLinear

    return VGG19(classes, channels, DenseLinear)


@model(least_side=8, live=True)
def resnet18(classes: int, channels: int) -> "nn.Module":
    """ResNet-18 (He et al. 2016) with the usual first layer for small images: 3×3, stride 1, no pooling.

    Four stages of two blocks, widths 64 to 512, projection shortcuts. Paul et al. 2022 name a ResNet-18 for CIFAR-100
    and do not describe its first layer. Input float [N, channels, H, W] with H, W ≥ 8; output float [N, classes].
    11,210,432 prunable weights for 3 channels, 100 classes.
    """
    from sparselt.models.residual import CifarResNet

    return CifarResNet(classes, channels, blocks=2, widths=(64, 128, 256, 512))
