"""The compiled crop against a slow one written here in whole numbers and plain floats."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.data.crops import center_box, coin, random_resized_box

MASK = 2**32 - 1


def philox_words(counter, seed):
    """Philox4x32-10 from the paper's description, in Python's whole numbers."""
    x0, x1, x2, x3 = counter
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b & MASK, (a >> 32) ^ x3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return x0, x1, x2, x3


def slow_box(height, width, index, epoch, seed, area, aspect):
    for attempt in range(10):
        words = philox_words((index, epoch, 3, attempt), seed)
        share = area[0] + (area[1] - area[0]) * (words[0] / 2**32)
        shape = aspect[0] * (aspect[1] / aspect[0]) ** (words[1] / 2**32)
        box_width = int(math.sqrt(share * height * width * shape) + 0.5)
        box_height = int(math.sqrt(share * height * width / shape) + 0.5)
        if 1 <= box_width <= width and 1 <= box_height <= height:
            return (
                words[2] * (height - box_height + 1) // 2**32,
                words[3] * (width - box_width + 1) // 2**32,
                box_height,
                box_width,
            )
    if width / height < aspect[0]:
        box_height, box_width = max(1, int(width / aspect[0] + 0.5)), width
    elif width / height > aspect[1]:
        box_height, box_width = height, max(1, int(height * aspect[1] + 0.5))
    else:
        box_height, box_width = height, width
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def box(height, width, index, epoch, seed, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
    return random_resized_box(height, width, index, epoch, seed & MASK, seed >> 32, *area, *aspect)


@settings(deadline=None, max_examples=300)
@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    index=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 1000),
    seed=st.integers(0, 2**64 - 1),
)
def test_box_lies_inside_and_equals_the_slow_one(height, width, index, epoch, seed):
    row, column, box_height, box_width = found = box(height, width, index, epoch, seed)
    assert 0 <= row <= row + box_height <= height and box_height >= 1
    assert 0 <= column <= column + box_width <= width and box_width >= 1
    assert found == slow_box(height, width, index, epoch, seed, (0.08, 1.0), (3 / 4, 4 / 3))


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10)])
def test_image_too_long_for_the_aspect_gets_the_largest_central_box(height, width):
    row, column, box_height, box_width = box(height, width, 0, 0, 0, area=(0.9, 1.0))
    assert sorted((box_height, box_width)) == [10, 13]
    assert (row, column) == ((height - box_height) // 2, (width - box_width) // 2)


def test_areas_are_uniform_and_aspects_log_uniform_where_every_box_fits():
    """Area at most 0.5 of a square: an aspect in [3/4, 4/3] then always fits, and nothing is drawn again."""
    boxes = np.array([box(400, 400, index, 0, 5, area=(0.1, 0.5)) for index in range(4000)], dtype=float)
    share = boxes[:, 2] * boxes[:, 3] / 400**2
    log_aspect = np.log(boxes[:, 3] / boxes[:, 2])
    assert largest_distance_to_uniform(share, 0.1, 0.5) < 0.03
    assert largest_distance_to_uniform(log_aspect, math.log(3 / 4), math.log(4 / 3)) < 0.03
    assert largest_distance_to_uniform(boxes[:, 0] / (401 - boxes[:, 2]), 0, 1) < 0.03
    assert abs(np.corrcoef(share, log_aspect)[0, 1]) < 0.06


@pytest.mark.parametrize(("height", "width"), [(350, 400), (500, 375), (90, 240), (64, 64)])
def test_areas_aspects_and_places_are_distributed_as_torchvisions(height, width):
    """Two-sample Kolmogorov-Smirnov tests with fixed seeds; equal distributions fail one of 16 about once in 60."""
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)], float)
    ours = np.array([box(height, width, index, 1, 7) for index in range(3000)], dtype=float)
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] / (height - b[:, 2] + 1),
        lambda b: b[:, 1] / (width - b[:, 3] + 1),
    ):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.001


def test_boxes_change_with_epoch_index_and_seed():
    first = box(300, 300, 5, 2, 9)
    assert (
        len(
            {
                first,
                box(300, 300, 5, 3, 9),
                box(300, 300, 6, 2, 9),
                box(300, 300, 5, 2, 10),
                box(300, 300, 5, 2, 9 << 32),
            }
        )
        == 5
    )


def test_coin_is_fair_and_apart_from_the_box():
    heads = Counter(coin(index, 3, 11, 0) for index in range(4000))
    assert abs(heads[True] - 2000) < 4 * math.sqrt(1000)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [(256, 256, 224 / 256, (16, 16, 224, 224)), (100, 301, 1.0, (0, 100, 100, 100)), (3, 2, 0.1, (1, 0, 1, 1))],
)
def test_center_box_is_the_central_square(height, width, ratio, expected):
    assert center_box(height, width, ratio) == expected


def largest_distance_to_uniform(values, low, high):
    """The Kolmogorov-Smirnov distance; 4,000 uniform values exceed 0.03 about once in 600 times."""
    ordered = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return max(abs(ordered - steps[1:]).max(), abs(ordered - steps[:-1]).max())
