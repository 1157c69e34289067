"""augment in NumPy's Philox and plain torch, one image at a time, in float64."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import philox


def augment(
    images: Tensor,
    indices: Tensor,
    *,
    seed: int,
    epoch: int,
    padding: int,
    flip: bool,
    mean: list[float],
    std: list[float],
    scale: float = 255.0,
) -> Tensor:
    """The same as the operator, as float64 [N, C, H, W] on the CPU."""
    rows, columns, flips = draws(indices.cpu().numpy(), seed=seed, epoch=epoch, padding=padding)
    height, width = images.shape[2:]
    out = []
    for image, row, column, flipped in zip(images.cpu(), rows, columns, flips, strict=True):
        image = pad(image, [padding] * 4)[:, row : row + height, column : column + width]
        out.append(image.flip(2) if flip and flipped else image)
    shape = (1, -1, 1, 1)
    pixels = torch.stack(out).double() / scale if out else images.cpu().double()
    return (pixels - torch.tensor(mean, dtype=torch.float64).view(shape)) / torch.tensor(std, dtype=torch.float64).view(
        shape
    )


def draws(indices: np.ndarray, *, seed: int, epoch: int, padding: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each sample's crop row and column in [0, 2·padding], and whether it is flipped."""
    counters = np.zeros((len(indices), 4), np.uint64)
    counters[:, 0], counters[:, 1] = indices, epoch
    counters[:, 2] = philox.CROP
    crop = philox.philox4x32(counters, *philox.key_of(seed)).astype(np.int64)
    counters[:, 2] = philox.FLIP
    coin = philox.philox4x32(counters, *philox.key_of(seed))[:, 0]
    offsets = 2 * padding + 1
    return crop[:, 0] * offsets >> 32, crop[:, 1] * offsets >> 32, coin >> 31 == 1
