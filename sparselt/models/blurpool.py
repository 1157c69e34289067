"""Anti-aliased downsampling (Zhang 2019, Making Convolutional Networks Shift-Invariant Again)."""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F


class Blur(nn.Module):
    """Blurs each channel with the outer product of (1, 2, 1) / 4 with itself, then takes every `stride`-th pixel.

    The border is reflected. Float [N, C, H, W] with H, W ≥ 2.
    """

    kernel: Tensor

    def __init__(self, stride: int = 1):
        super().__init__()
        self.stride = stride
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        # Not in the state dict: checkpoints and masks of networks with and without it are the same.
        self.register_buffer("kernel", torch.outer(line, line), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        channels = images.shape[1]
        kernel = self.kernel.to(images.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(reflected(images), kernel, stride=self.stride, groups=channels)


@fx.wrap  # tracing calls `forward` without a tensor, so the device can only be looked at inside this function
def reflected(images: Tensor) -> Tensor:
    """`images` with a border of one pixel, reflected."""
    return joined_border(images) if images.is_cuda else F.pad(images, (1, 1, 1, 1), mode="reflect")


def joined_border(images: Tensor) -> Tensor:
    """As `reflected`, with gradients in a fixed order and in channels last. CUDA's own padding has neither."""
    rows = torch.cat([images[:, :, 1:2], images, images[:, :, -2:-1]], 2)
    return torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], 3)


class BlurredConv2d(nn.Conv2d):
    """A strided convolution of a blurred input."""

    blur: Blur

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.blur(images))


def apply_blurpool_(model: nn.Module) -> None:
    """Makes downsampling anti-aliased, in place. Names and shapes of weights stay.

    A max pooling of stride > 1 becomes one of stride 1 and a strided `Blur`. A strided convolution of 16 input channels
    or more gets a blurred input.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d) and _stride(child) > 1:
                dense = nn.MaxPool2d(child.kernel_size, 1, child.padding, child.dilation, ceil_mode=child.ceil_mode)
                setattr(module, name, nn.Sequential(dense, Blur(_stride(child))))
            elif type(child) is nn.Conv2d and _stride(child) > 1 and child.in_channels >= 16:
                child.__class__ = BlurredConv2d
                child.add_module("blur", Blur())


def _stride(module: nn.Conv2d | nn.MaxPool2d) -> int:
    return module.stride if isinstance(module.stride, int) else max(module.stride)
