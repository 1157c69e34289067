"""augment on the CPU: one pass in Numba, an output row at a time."""

import numpy as np
from torch import Tensor

from .._compile import compiled
from .._threads import split
from ..philox import CROP, FLIP, below, key_of, philox4x32_scalar
from . import affine, empty_like_output

PARALLEL_FROM = 1 << 18  # output values; handing parts to threads costs about 60 µs (two EPYC cores)


def augment(
    images: Tensor,
    indices: Tensor,
    seed: int,
    epoch: int,
    padding: int,
    flip: bool,
    mean: list[float],
    std: list[float],
    scale: float,
    channels_last: bool,
) -> Tensor:
    """The operator on CPU tensors, unchecked."""
    out = empty_like_output(images, channels_last)
    factors, terms = np.array(affine(mean, std, scale), np.float32)
    keys = key_of(seed % 2**64)
    # Rows of images first, then whatever is contiguous innermost, so that one loop serves both memory orders.
    source, target = images.permute(0, 2, 3, 1).numpy(), out.permute(0, 2, 3, 1).numpy()
    arguments = (source, target, indices.numpy(), *keys, epoch, padding, flip, factors, terms)
    images_from = max(2, PARALLEL_FROM // max(1, images[:1].numel()))
    split(_augment, arguments, len(images), images_from)
    return out


@compiled
def _augment(source, target, indices, key0, key1, epoch, padding, flip, factors, terms, start, stop):
    _, height, width, channels = source.shape
    for n in range(start, stop):
        word0, word1, _, _ = philox4x32_scalar(indices[n], epoch, CROP, 0, key0, key1)
        row, column = below(word0, 2 * padding + 1) - padding, below(word1, 2 * padding + 1) - padding
        coin, _, _, _ = philox4x32_scalar(indices[n], epoch, FLIP, 0, key0, key1)
        flipped = flip and coin >> np.uint32(31) == 1
        for y in range(height):
            inside = 0 <= y + row < height
            for x in range(width):
                across = (width - 1 - x if flipped else x) + column
                if inside and 0 <= across < width:
                    for c in range(channels):
                        target[n, y, x, c] = factors[c] * np.float32(source[n, y + row, across, c]) + terms[c]
                else:
                    for c in range(channels):
                        target[n, y, x, c] = terms[c]
