"""Networks of the papers for MNIST and CIFAR besides the CIFAR ResNets: LeNet-300-100, Conv-4, VGG-19, ResNet-18."""

from torch import Tensor, nn

from sparselt.models.cifar_resnet import residual_stages
from sparselt.models.registry import model


@model(side=28)
def lenet_300_100(classes: int, channels: int) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998): two hidden layers, ReLU.

    Input float [N, channels, 28, 28]; output float [N, classes]. 266,200 prunable weights for 1 channel, 10 classes.
    """
    hidden = [nn.Linear(channels * 28 * 28, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, classes))


@model(side=32)
def conv4(classes: int, channels: int) -> nn.Module:
    """Conv-4 (Frankle and Carbin 2019, Fig. 2): two pairs of 3×3 convolutions, each pair followed by max pooling.

    Widths 64, 64, 128, 128, then fully connected layers of 256, 256 and `classes`; biases, no batch norm. Input float
    [N, channels, 32, 32]; output float [N, classes]. 2,425,024 prunable weights for 3 channels, 10 classes.
    """
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
def vgg19(classes: int, channels: int) -> nn.Module:
    """VGG-19 for small images (Simonyan and Zisserman 2015, configuration E, with batch norm and one linear layer).

    Sixteen 3×3 convolutions with biases, max pooling after the 2nd, 4th, 8th and 12th, the average over what is left,
    one fully connected layer, as the papers prune it. Input float [N, channels, H, W] with H, W ≥ 16; output float
    [N, classes]. 20,024,000 prunable weights for 3 channels, 10 classes.
    """
    return _VGG19(classes, channels)


@model(least_side=8)
def resnet18(classes: int, channels: int) -> nn.Module:
    """ResNet-18 (He et al. 2016) with the usual first layer for small images: 3×3, stride 1, no pooling.

    Four stages of two blocks, widths 64 to 512, projection shortcuts. Paul et al. 2022 name a ResNet-18 for CIFAR-100
    and do not describe its first layer. Input float [N, channels, H, W] with H, W ≥ 8; output float [N, classes].
    11,210,432 prunable weights for 3 channels, 100 classes.
    """
    return _ResNet18(classes, channels)


class _VGG19(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for stage, (out, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
                width = out
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


class _ResNet18(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.blocks = residual_stages((64, 128, 256, 512), blocks=2)
        self.fc = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.norm(self.conv(images)).relu())
        return self.fc(features.mean((2, 3)))
