"""augment on the CPU: one pass in Numba that gathers the bytes of an image, then normalizes them in vectors."""

import numpy as np
import torch
from torch import Tensor

from .._compile import compiled
from .._memory import write
from .._threads import split
from ..philox import CROP, FLIP, below, key_of, philox4x32_scalar
from . import affine, check_epoch, empty_like_output

PARALLEL_FROM = 1 << 19  # output values, 0.25 ms; handing parts to threads costs about 60 µs (two EPYC cores)


def augment(
    images: Tensor,
    indices: Tensor,
    seed: int,
    epoch: int,
    seed_data: Tensor | None,
    epoch_data: Tensor | None,
    padding: int,
    flip: bool,
    mean: list[float],
    std: list[float],
    scale: float,
    channels_last: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The operator on CPU tensors, unchecked."""
    seed = seed if seed_data is None else int(seed_data)
    epoch = epoch if epoch_data is None else check_epoch(int(epoch_data))
    out = empty_like_output(images, channels_last, dtype)
    if not out.numel():
        return out
    count, channels, height, width = images.shape
    planes, together = (1, channels) if channels_last else (channels, 1)
    # A row of a plane is one stretch of memory, with `together` channels interleaved.
    normalization = np.tile(np.array(affine(mean, std, scale), np.float32).reshape(2, planes, together), width)
    pixels = out.permute(0, 2, 3, 1) if channels_last else out
    rows = pixels.view(torch.uint16 if dtype == torch.bfloat16 else dtype).reshape(count, planes, height, -1).numpy()
    source, keys = images.permute(0, 2, 3, 1).numpy(), key_of(seed % 2**64)
    arguments = (source, rows, indices.numpy(), *keys, epoch, padding, flip, *normalization)
    split(_augment, arguments, count, max(2, PARALLEL_FROM // out[0].numel()))
    return out


@compiled
def _augment(source, target, indices, key0, key1, epoch, padding, flip, factors, terms, start, stop):
    """Augments images start to stop. source: [N, H, W, C]; target: [N, planes, H, values of a row]."""
    gathered = np.empty(target.shape[1:], np.uint8)
    for n in range(start, stop):
        word0, word1, _, _ = philox4x32_scalar(indices[n], epoch, CROP, 0, key0, key1)
        row, column = below(word0, 2 * padding + 1) - padding, below(word1, 2 * padding + 1) - padding
        coin, _, _, _ = philox4x32_scalar(indices[n], epoch, FLIP, 0, key0, key1)
        _gather(source[n], gathered, row, column, flip and coin >> np.uint32(31) == 1)
        _normalize(target[n], gathered, factors, terms)


@compiled
def _gather(source, gathered, row, column, flipped):
    """gathered[y, x] = source[y + row, x + column], with x mirrored if `flipped`, and 0 outside the source."""
    height, width, channels = source.shape
    planes = gathered.shape[0]
    together = channels // planes
    begin, step = (width - 1 + column, -1) if flipped else (column, 1)
    aside = -column if flipped else column
    first, last = max(0, -aside), min(width, width - aside)
    gathered[:] = 0
    for plane in range(planes):
        for y in range(max(0, -row), min(height, height - row)):
            # Three channels are written out, because an inner loop over them would triple the time.
            if together == 3:
                for x in range(first, last):
                    across = begin + step * x
                    gathered[plane, y, 3 * x] = source[y + row, across, 0]
                    gathered[plane, y, 3 * x + 1] = source[y + row, across, 1]
                    gathered[plane, y, 3 * x + 2] = source[y + row, across, 2]
            else:
                for c in range(together):
                    for x in range(first, last):
                        gathered[plane, y, x * together + c] = source[y + row, begin + step * x, plane + c]


@compiled
def _normalize(target, pixels, factors, terms):
    for plane in range(target.shape[0]):
        for y in range(target.shape[1]):
            for i in range(target.shape[2]):
                value = factors[plane, i] * np.float32(pixels[plane, y, i]) + terms[plane, i]
                write(target, (plane, y, i), value)
