"""ResNets for small images (He et al. 2016) with projection shortcuts, as the lottery-ticket papers prune them."""

from torch import Tensor, nn
from torch.nn import functional as F


class CifarResNet(nn.Module):
    """Stages of residual blocks on small images.

    A 3×3 convolution, then `blocks` blocks at each width; each stage after the first halves the size. Where the shape
    changes, the shortcut is a 1×1 convolution with batch norm. Global average pooling, one linear layer.

    Args:
        classes: number of outputs.
        channels: channels of the input.
        blocks: blocks a stage.
        widths: channels of each stage.
        stride: of the first convolution.

    Input float [N, channels, H, W] with H, W of 2 to the number of halvings or more; output float [N, classes].
    """

    def __init__(self, classes: int, channels: int, blocks: int, widths: tuple[int, ...], stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        layers, width = [], widths[0]
        for stage, out in enumerate(widths):
            for block in range(blocks):
                layers.append(Block(width, out, stride=2 if stage and not block else 1))
                width = out
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.conv(images)), inplace=True))
        return self.fc(features.mean((2, 3)))


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
