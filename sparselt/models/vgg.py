"""VGG-19 for small images."""

from torch import Tensor, nn


class DenseLinear(nn.Linear):
    """A fully connected layer that is never pruned, see `sparselt.prunable_parameters`."""

    prunable = False


class VGG19(nn.Module):
    """Configuration E of Simonyan and Zisserman 2015, see `sparselt.models.networks.small.vgg19`."""

    def __init__(self, classes: int, channels: int, classifier: type[nn.Linear] = nn.Linear):
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
        self.fc = classifier(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))
