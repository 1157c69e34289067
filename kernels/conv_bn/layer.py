"""The shape of a convolution, and what it has to compute and to move."""

from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["CIFAR_RESNET_20", "Layer"]


@dataclass(frozen=True)
class Layer:
    """A convolution of one network: images, their size and channels, side of the kernel (3 or 1), stride (1 or 2)."""

    batch: int
    height: int
    width: int
    channels_in: int
    channels_out: int
    side: int = 3
    stride: int = 1

    @classmethod
    def of(cls, input: Tensor, weight: Tensor, stride: int) -> "Layer":
        """Of an input (K, N, H, W, Cin) and a weight (K, Cout, kh, kw, Cin)."""
        batch, height, width, channels = input.shape[1:]
        return cls(batch, height, width, channels, weight.shape[1], weight.shape[2], stride)

    def with_batch(self, batch: int) -> "Layer":
        return replace(self, batch=batch)

    @property
    def out_height(self) -> int:
        return (self.height - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width - 1) // self.stride + 1

    @property
    def pixels_in(self) -> int:
        return self.batch * self.height * self.width

    @property
    def pixels_out(self) -> int:
        return self.batch * self.out_height * self.out_width

    @property
    def columns(self) -> int:
        """Numbers of the input under an output: channels times the kernel's places."""
        return self.side**2 * self.channels_in

    @property
    def operations(self) -> int:
        """Multiplications and additions of one pass. Each of the two gradients takes as many."""
        return 2 * self.pixels_out * self.columns * self.channels_out

    def forward_bytes(self, itemsize: int = 2) -> int:
        """What the forward pass must move: input and weight once, output once."""
        return itemsize * (self._numbers_in + self._numbers_out + self._weights)

    def weight_gradient_bytes(self, itemsize: int = 2) -> int:
        """What the gradient of the weight must move: input, output and its gradient once, the gradient once."""
        return itemsize * (self._numbers_in + 2 * self._numbers_out + self._weights)

    def input_gradient_bytes(self, itemsize: int = 2) -> int:
        """What the gradient of the input must move: output, its gradient, input and weight once, the gradient once."""
        return itemsize * (2 * self._numbers_in + 2 * self._numbers_out + self._weights)

    @property
    def _numbers_in(self) -> int:
        return self.pixels_in * self.channels_in

    @property
    def _numbers_out(self) -> int:
        return self.pixels_out * self.channels_out

    @property
    def _weights(self) -> int:
        return self.columns * self.channels_out


CIFAR_RESNET_20 = {
    Layer(128, 32, 32, 3, 16): 1,
    Layer(128, 32, 32, 16, 16): 6,
    Layer(128, 32, 32, 16, 32, stride=2): 1,
    Layer(128, 16, 16, 32, 32): 5,
    Layer(128, 16, 16, 32, 64, stride=2): 1,
    Layer(128, 8, 8, 64, 64): 5,
    Layer(128, 32, 32, 16, 32, side=1, stride=2): 1,
    Layer(128, 16, 16, 32, 64, side=1, stride=2): 1,
}
"""The convolutions of ResNet-20 on a batch of 128 CIFAR images, and how many there are of each (He et al. 2016)."""
