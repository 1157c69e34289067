"""Which part of an image a crop shows: compiled functions of (image size, seed, epoch, sample index)."""

import math

import numpy as np

from sparselt.data.transforms import CenterCrop, RandomResizedCrop
from sparselt.kernels._compile import compiled
from sparselt.kernels.philox import FLIP, below, fraction, philox4x32_scalar

RESIZED_CROP = 3  # Philox stream; the counter's last word counts the attempts
_ATTEMPTS = 10  # as torchvision: after ten boxes that do not fit, the largest central box of an allowed aspect

# Places in the two arrays that describe a crop. The numbers are passed as data, so that code compiled once serves every
# epoch, seed and crop.
RANDOM, FLIPPED, BILINEAR, EPOCH, KEY0, KEY1 = range(6)
AREA_LOW, AREA_HIGH, ASPECT_LOW, ASPECT_HIGH, CENTER_RATIO = range(5)


def crop_numbers(transform: RandomResizedCrop | CenterCrop, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """A transform as the arguments of `crop_region`: int64 [6] and float64 [5], in the order of the constants above."""
    from sparselt.kernels.philox import key_of

    whole, real = np.zeros(6, dtype=np.int64), np.zeros(5)
    if isinstance(transform, CenterCrop):
        whole[BILINEAR], real[CENTER_RATIO] = transform.interpolation == "bilinear", transform.ratio
    else:
        whole[:] = 1, transform.flip, 0, epoch, *key_of(seed)
        real[:CENTER_RATIO] = *transform.area, *transform.aspect
    return whole, real


@compiled
def crop_region(height, width, index, side, whole, real):
    """The region of sample `index`, of height x width pixels, that is resized to `side` x `side`.

    Returns (top, left, rows, columns, whether to resize bilinearly, whether to flip); the first four in pixels, which
    may be fractions.
    """
    bilinear = whole[BILINEAR] != 0
    if bilinear:
        top, left, rows, columns = center_region(height, width, side, real[CENTER_RATIO])
        return top, left, rows, columns, True, False
    if whole[RANDOM] == 0:
        row, column, box_height, box_width = center_box(height, width, real[CENTER_RATIO])
    else:
        row, column, box_height, box_width = random_resized_box(
            height, width, index, whole[EPOCH], whole[KEY0], whole[KEY1],
            real[AREA_LOW], real[AREA_HIGH], real[ASPECT_LOW], real[ASPECT_HIGH],
        )  # fmt: skip
    flip = whole[FLIPPED] != 0 and coin(index, whole[EPOCH], whole[KEY0], whole[KEY1])
    return float(row), float(column), float(box_height), float(box_width), False, flip


@compiled
def random_resized_box(height, width, index, epoch, key0, key1, area_low, area_high, aspect_low, aspect_high):
    """(row, column, box height, box width) for one sample; the box lies inside the image.

    One Philox call an attempt: word 0 draws the area, 1 the logarithm of the aspect, 2 and 3 the position.
    """
    area = float(height) * float(width)
    log_low, log_high = math.log(aspect_low), math.log(aspect_high)
    for attempt in range(_ATTEMPTS):
        word0, word1, word2, word3 = philox4x32_scalar(index, epoch, RESIZED_CROP, attempt, key0, key1)
        target = area * (area_low + (area_high - area_low) * fraction(word0))
        aspect = math.exp(log_low + (log_high - log_low) * fraction(word1))
        box_width = math.floor(math.sqrt(target * aspect) + 0.5)
        box_height = math.floor(math.sqrt(target / aspect) + 0.5)
        if 0 < box_width <= width and 0 < box_height <= height:
            return below(word2, height - box_height + 1), below(word3, width - box_width + 1), box_height, box_width
    box_height, box_width = height, width
    if width < aspect_low * height:
        box_height = max(1, math.floor(width / aspect_low + 0.5))
    elif width > aspect_high * height:
        box_width = max(1, math.floor(height * aspect_high + 0.5))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@compiled
def center_box(height, width, ratio):
    """(row, column, side, side) of the central square whose side is `ratio` times the shorter side, as FFCV cuts it."""
    side = max(1, int(ratio * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


@compiled
def center_region(height, width, size, ratio):
    """(top, left, rows, columns) of the region that torchvision's Resize and CenterCrop show, in fractional pixels.

    They resize the shorter side to size / ratio pixels and the longer one in proportion, rounded down, and cut out the
    central size x size, at a whole pixel; a half is rounded to even.
    """
    shorter = max(size, math.floor(size / ratio + 0.5))
    if width <= height:
        resized_width, resized_height = shorter, int(shorter * height / width)
    else:
        resized_width, resized_height = int(shorter * width / height), shorter
    down, across = height / resized_height, width / resized_width
    return _middle(resized_height, size) * down, _middle(resized_width, size) * across, size * down, size * across


@compiled
def _middle(length, size):
    spare = length - size
    return spare // 2 + (1 if spare % 4 == 3 else 0)


@compiled
def coin(index, epoch, key0, key1):
    """Whether this sample is flipped in this epoch."""
    word, _, _, _ = philox4x32_scalar(index, epoch, FLIP, 0, key0, key1)
    return (word >> 31) == 1
