"""The CIFAR ResNets of He et al. 2016 with projection shortcuts, as the lottery-ticket papers prune them."""

from torch import Tensor, nn
from torch.nn import functional as F

from sparselt.models.registry import model


@model(least_side=4)
def resnet8(classes: int, channels: int) -> nn.Module:
    """The digits miniature: one block a stage, widths 8-16-32; 19,464 prunable weights for 1 channel, 10 classes."""
    return CifarResNet(classes, channels, blocks=1, widths=(8, 16, 32))


@model(least_side=4)
def resnet20(classes: int, channels: int) -> nn.Module:
    """ResNet-20: three blocks a stage, widths 16-32-64; 270,896 prunable weights for 3 channels, 10 classes."""
    return CifarResNet(classes, channels, blocks=3, widths=(16, 32, 64))


class CifarResNet(nn.Module):
    """Three stages of residual blocks on small images.

    A 3×3 convolution, then `blocks` blocks at each of three widths; the second and third stage halve the size. Where
    the shape changes, the shortcut is a 1×1 convolution with batch norm. Global average pooling, one linear layer.

    Args:
        classes: number of outputs.
        channels: channels of the input.
        blocks: blocks a stage; depth is 6 · blocks + 2.
        widths: channels of the three stages.

    Input float [N, channels, H, W] with H, W ≥ 4; output float [N, classes].
    """

    def __init__(self, classes: int, channels: int, blocks: int, widths: tuple[int, int, int]):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = residual_stages(widths, blocks)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.conv(images)), inplace=True))
        return self.fc(features.mean((2, 3)))


def residual_stages(widths: tuple[int, ...], blocks: int) -> nn.Sequential:
    """Stages of `blocks` residual blocks each, from `widths[0]` channels on; each stage after the first halves H, W."""
    layers, width = [], widths[0]
    for stage, out in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(width, out, stride=2 if stage and not block else 1))
            width = out
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.shortcut = nn.Sequential()
        if width_in != width_out or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)
