"""What every loader yields."""

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """N samples on the loader's device, which the loader never writes to again.

    images: float32 [N, C, H, W], channels-last, normalised. labels: int64 [N]. indices: int64 [N], places in the split.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


def normalized(images: torch.Tensor, indices: torch.Tensor, transform) -> torch.Tensor:
    """uint8 [N, C, H, W] of any strides to float32, channels-last, in memory of its own; nothing is drawn."""
    return augmented(images, indices, transform, seed=0, epoch=0, padding=0, flip=False)


def augmented(
    images: torch.Tensor, indices: torch.Tensor, transform, *, seed: int, epoch: int, padding: int, flip: bool
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
