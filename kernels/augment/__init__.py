"""augment: zero-pad, crop at a random offset, flip at random, normalize and cast a batch of uint8 images, in one pass.

out[n, c, y, x] = (p / scale - mean[c]) / std[c], where p = images[n, c, y + row - padding, x' + column - padding], or
0 outside the image, and x' = width - 1 - x for a flipped image, x otherwise; the standard augmentation of CIFAR
(He et al. 2016, section 4.2). row and column are uniform in [0, 2·padding].

The draws depend only on (seed, epoch, sample index), by Philox4x32-10 as in `sparselt.kernels.philox`: CPU and GPU draw
the same, whatever the batch. Bytes moved for each pixel and channel: 1 read, 4 written (2 in bfloat16).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._library import implement

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "augment(Tensor images, Tensor indices, SymInt seed, SymInt epoch, Tensor? seed_data, Tensor? epoch_data, "
    "int padding, bool flip, float[] mean, float[] std, float scale, bool channels_last, ScalarType dtype) -> Tensor"
)


def augment(
    images: Tensor,
    indices: Tensor,
    *,
    seed: int | Tensor,
    epoch: int | Tensor,
    padding: int,
    flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 255.0,
    channels_last: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The augmented batch: [N, C, H, W] in `dtype`, float32 or bfloat16, channels-last unless told otherwise.

    images: uint8 [N, C, H, W], any strides (a permuted NHWC batch needs no copy).
    indices: int64 [N], each image's index in its data set, below 2**32 (not checked), on the images' device.
    seed: in [0, 2**64); epoch: in [0, 2**31). Either may be an int64 [] on the images' device, which is read when the
        kernel runs, so a captured CUDA graph replays with its current value. As a tensor, a seed from 2**63 on is given
        as seed - 2**64. On a GPU the tensor's value is not checked.
    padding: pixels; 0, with flip False, only normalizes.
    mean, std: one number a channel, of pixels divided by `scale`.
    Raises ValueError or TypeError for arguments that do not fit.
    """
    _check(images, indices, padding, mean, std, scale, dtype)
    seed_number, seed_data = _number_or_data("seed", seed, _signed, images.device)
    epoch_number, epoch_data = _number_or_data("epoch", epoch, check_epoch, images.device)
    return torch.ops.sparselt.augment(
        images,
        indices,
        seed_number,
        epoch_number,
        seed_data,
        epoch_data,
        padding,
        flip,
        list(mean),
        list(std),
        scale,
        channels_last,
        dtype,
    )


def empty_like_output(images: Tensor, channels_last: bool, dtype: torch.dtype) -> Tensor:
    """An empty output of `augment`."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=order)


def affine(mean: Sequence[float], std: Sequence[float], scale: float) -> list[list[float]]:
    """For each channel a factor and a term: the normalized pixel is factor·pixel + term."""
    return [[1 / (scale * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]]


def check_epoch(epoch: int) -> int:
    """The epoch; ValueError unless it is in [0, 2**31)."""
    if not 0 <= epoch < 2**31:
        raise ValueError(f"epoch {epoch} is outside [0, 2**31)")
    return epoch


def _signed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is outside [0, 2**64)")
    return seed - 2**64 if seed >= 2**63 else seed


def _number_or_data(
    name: str, value: int | Tensor, checked: Callable[[int], int], device: torch.device
) -> tuple[int, Tensor | None]:
    """The checked number and None, or 0 and the tensor that takes its place."""
    if not isinstance(value, Tensor):
        return checked(value), None
    if (value.dtype, value.dim(), value.device) != (torch.int64, 0, device):
        raise ValueError(
            f"{name} is {value.dtype} {tuple(value.shape)} on {value.device}: "
            f"expected a whole number, or torch.int64 () on {device}"
        )
    return 0, value


def _check(images, indices, padding, mean, std, scale, dtype) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise TypeError(f"images are {images.dtype} with {images.dim()} dimensions: expected uint8 [N, C, H, W]")
    if dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"dtype is {dtype}: expected torch.float32 or torch.bfloat16")
    if (indices.dtype, tuple(indices.shape)) != (torch.int64, (len(images),)) or indices.device != images.device:
        raise ValueError(
            f"indices are {indices.dtype} {tuple(indices.shape)} on {indices.device}: "
            f"expected int64 ({len(images)},) on {images.device}, one an image"
        )
    if padding < 0:
        raise ValueError(f"padding is {padding} pixels: expected 0 or more")
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(
            f"{len(mean)} means and {len(std)} stds for {images.shape[1]} channels: expected one a channel"
        )
    if not all(s > 0 for s in (*std, scale)):
        raise ValueError(f"std {list(std)} and scale {scale} must be above 0")
    if not all(math.isfinite(number) for number in (*mean, *std, scale)):
        raise ValueError(f"mean {list(mean)}, std {list(std)} and scale {scale} must be finite")


implement(_library, "augment", __name__, "augment")


@torch.library.register_fake("sparselt::augment", lib=_library)
def _fake(images, indices, *settings) -> Tensor:
    return empty_like_output(images, *settings[-2:])
