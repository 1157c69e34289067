"""What every loader yields."""

from typing import NamedTuple

import numpy as np
import torch

from sparselt.kernels._compile import compiled


class Batch(NamedTuple):
    """N samples on the loader's device, which the loader never writes to again.

    images: float32 [N, C, H, W], channels-last, normalised. labels: int64 [N]. indices: int64 [N], places in the split.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


def normalized(images: torch.Tensor, indices: torch.Tensor, transform) -> torch.Tensor:
    """uint8 [N, C, H, W] of any strides to float32, channels-last, in memory of its own; nothing is drawn."""
    if images.device.type == "cpu" and images.is_contiguous(memory_format=torch.channels_last):
        return _normalized_rows(images, transform)
    return augmented(images, indices, transform, seed=0, epoch=0, padding=0, flip=False)


def augmented(
    images: torch.Tensor,
    indices: torch.Tensor,
    transform,
    *,
    seed: int | torch.Tensor,
    epoch: int | torch.Tensor,
    padding: int,
    flip: bool,
) -> torch.Tensor:
    """Padded, cropped and flipped by (seed, epoch, index), then normalised as `transform` says."""
    from sparselt.kernels import augment

    return augment(
        images,
        indices,
        seed=seed,
        epoch=epoch,
        padding=padding,
        flip=flip,
        mean=transform.mean,
        std=transform.std,
        scale=transform.scale,
    )


def _normalized_rows(images: torch.Tensor, transform) -> torch.Tensor:
    """What `augment` would give, to the bit, in vector instructions: a row of pixels is one stretch of memory."""
    from sparselt.kernels._threads import split
    from sparselt.kernels.augment import affine

    count, channels, height, width = images.shape
    out = torch.empty(images.shape, dtype=torch.float32, memory_format=torch.channels_last)
    rows = np.tile(np.array(affine(transform.mean, transform.std, transform.scale), np.float32), width)
    source, target = (t.permute(0, 2, 3, 1).numpy().reshape(count * height, width * channels) for t in (images, out))
    split(_normalize, (source, target, *rows), count * height, max(1, _PARALLEL_FROM // (width * channels)))
    return out


_PARALLEL_FROM = 1 << 18  # values, as in the augment kernel


@compiled
def _normalize(source, target, factors, terms, start, stop):
    for row in range(start, stop):
        pixels, values = source[row], target[row]
        for k in range(len(factors)):
            values[k] = factors[k] * np.float32(pixels[k]) + terms[k]
