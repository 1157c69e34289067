"""Transforms of images as values, which the loaders carry out.

mean and std are per channel, in units of `scale`: a pixel v becomes (v / scale - mean) / std. Training transforms draw
from Philox streams keyed by (augmentation seed, epoch, sample index); evaluation transforms draw nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sparselt.errors import DataError

# Training-set mean and standard deviation of ImageNet in [0, 1], as torchvision states them for its pretrained networks
# (https://docs.pytorch.org/vision/stable/models.html, "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]").
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OF_IMAGENET = "ImageNet's training images, as torchvision states them"


def _check_normalization(mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> None:
    if len(mean) != len(std) or not mean:
        raise DataError(f"mean has {len(mean)} channels and std has {len(std)}: give one number per channel in both")
    if not all(math.isfinite(value) for value in (*mean, *std, scale)) or min(std) <= 0 or scale <= 0:
        raise DataError(f"mean {mean}, std {std}, scale {scale}: all must be finite, std and scale above 0")


@dataclass(frozen=True)
class Normalize:
    """Evaluation of images that already have the network's size."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __post_init__(self):
        _check_normalization(self.mean, self.std, self.scale)


@dataclass(frozen=True)
class PadCrop:
    """Training on small images: zero-pad by `padding` on every side, crop the original size, flip half of them."""

    padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __post_init__(self):
        _check_normalization(self.mean, self.std, self.scale)
        if self.padding < 0:
            raise DataError(f"padding {self.padding} must be at least 0")


@dataclass(frozen=True)
class RandomResizedCrop:
    """Training on photographs: crop a random share of the area at a random aspect ratio, resize to size x size, flip
    half of them.

    area is a share of the image, drawn uniformly; aspect is width / height, drawn log-uniformly. The defaults are
    torchvision's (https://docs.pytorch.org/vision/stable/generated/torchvision.transforms.RandomResizedCrop.html),
    which follow Szegedy et al., Going deeper with convolutions (CVPR 2015), section 6. Resized by area, as in FFCV
    (but where one side shrinks and the other grows, OpenCV in FFCV takes single pixels).
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 255.0

    def __post_init__(self):
        _check_normalization(self.mean, self.std, self.scale)
        if self.size < 1:
            raise DataError(f"crop size {self.size} must be at least 1 pixel")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise DataError(f"area range {self.area} must be ascending shares of the image in (0, 1]")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise DataError(f"aspect range {self.aspect} must be ascending and above 0")


@dataclass(frozen=True)
class CenterCrop:
    """Evaluation on photographs: the central square of `ratio` times the shorter side, resized to size x size.

    224/256 is the usual protocol: resize the shorter side to 256, crop the central 224. interpolation "bilinear" is
    torchvision's Resize (antialiased) and CenterCrop, to within two levels a pixel; "area" is FFCV's own centre crop,
    to within one.
    """

    size: int
    ratio: float = 224 / 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 255.0
    interpolation: Literal["bilinear", "area"] = "bilinear"

    def __post_init__(self):
        _check_normalization(self.mean, self.std, self.scale)
        if self.size < 1:
            raise DataError(f"crop size {self.size} must be at least 1 pixel")
        if not 0 < self.ratio <= 1:
            raise DataError(f"centre crop ratio {self.ratio} must be in (0, 1]")
        if self.interpolation not in ("bilinear", "area"):
            raise DataError(f"interpolation {self.interpolation!r} is unknown: choose bilinear or area")
