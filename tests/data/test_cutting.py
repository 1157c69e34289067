"""Only what a crop shows is decompressed, and resized by area: against whole pictures and sums written out here."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparselt.data.crops import center_region
from sparselt.data.jpeg import cut_box
from sparselt.data.resize import resize_region


def picture(height, width, seed=0):
    """Smooth colours with some noise, uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def jpeg_of(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 85, "restart_marker_blocks": 1, **options})
    return np.frombuffer(file.getvalue(), np.uint8)


def pixels_of(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cut_jpeg_shows_the_box_to_the_bit(data):
    height, width = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    jpeg = jpeg_of(picture(height, width, seed=height), subsampling=data.draw(st.sampled_from([0, 1, 2])))
    out = np.empty(len(jpeg), np.uint8)
    size, first_row, first_column, shown_rows, shown_columns = cut_box(jpeg, top, left, rows, columns, out)
    assert 0 < size <= len(jpeg)
    cut = pixels_of(out[:size])
    assert cut.shape == (shown_rows, shown_columns, 3)
    top, left = top - first_row, left - first_column
    assert top >= 0 and left >= 0 and shown_rows <= rows + 63 and shown_columns <= columns + 63
    whole = pixels_of(jpeg)[first_row:, first_column:]
    box = slice(top, top + rows), slice(left, left + columns)
    assert np.array_equal(cut[box], whole[box])


@pytest.mark.parametrize(
    "options",
    [{"restart_marker_blocks": 0}, {"restart_marker_blocks": 7}, {"progressive": True}],
    ids=["no markers", "markers within rows", "progressive"],
)
def test_jpeg_that_cannot_be_cut_is_left_whole(options):
    jpeg = jpeg_of(picture(70, 90), **options)
    assert cut_box(jpeg, 20, 20, 10, 10, np.empty(len(jpeg), np.uint8))[0] == 0


def test_markers_at_the_end_of_rows_are_enough_to_leave_out_rows():
    jpeg = jpeg_of(picture(160, 90), restart_marker_blocks=0, restart_marker_rows=1)
    out = np.empty(len(jpeg), np.uint8)
    size, row, column, rows, columns = cut_box(jpeg, 60, 30, 20, 20, out)
    assert (row, column, columns) == (32, 0, 90) and rows < 160
    assert np.array_equal(pixels_of(out[:size])[28:48, 30:50], pixels_of(jpeg)[60:80, 30:50])


def test_grey_jpeg_is_left_whole():
    file = io.BytesIO()
    Image.fromarray(picture(40, 40)[:, :, 0]).save(file, "JPEG", restart_marker_blocks=1)
    jpeg = np.frombuffer(file.getvalue(), np.uint8)
    assert cut_box(jpeg, 20, 20, 10, 10, np.empty(len(jpeg), np.uint8))[0] == 0


@settings(deadline=None, max_examples=200)
@given(cut=st.integers(0, 5000), changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4))
def test_damaged_jpeg_is_never_read_beyond_its_end(cut, changes):
    """The memory behind the data holds markers: whoever reads on finds them."""
    jpeg = jpeg_of(picture(60, 60)).copy()
    for place, value in changes:
        jpeg[place % len(jpeg)] = value
    length = min(cut, len(jpeg))
    behind = np.tile(np.array([0xFF, 0xD0], np.uint8), 4096)
    memory = np.concatenate([jpeg[:length], behind])
    out = np.zeros(length + 20_000, np.uint8)
    size, *_ = cut_box(memory[:length], 20, 20, 10, 10, out[:length])
    assert 0 <= size <= length and not out[length:].any()


def averaged(pixels, side, unit=None):
    """[side, side, C] in float64: the share of each pixel that each result covers, as a matrix for either axis.

    With `unit`, the shares down are whole multiples of 1 / unit: each rounded, the largest takes what is left of 1.
    """

    def covered(length):
        edges, places = np.arange(side + 1) * length / side, np.arange(length)
        low, high = edges[:-1, None], edges[1:, None]
        return np.clip(np.minimum(high, places + 1) - np.maximum(low, places), 0, None) * side / length

    down = covered(pixels.shape[0])
    if unit:
        down = np.floor(down * unit + 0.5) / unit
        down[np.arange(side), down.argmax(axis=1)] += 1 - down.sum(axis=1)
    return np.einsum("yi,xj,ijc->yxc", down, covered(pixels.shape[1]), pixels.astype(float))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_resized_box_is_the_average_of_what_each_pixel_covers(data):
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - column))
    flip = data.draw(st.booleans())
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = np.empty((data.draw(st.integers(1, 40)),) * 2 + (3,), np.uint8)
    region = (float(row), float(column), float(rows), float(columns))
    resize_region(pixels.reshape(-1), height, width, *region, False, flip, out)
    covered = pixels[row : row + rows, column : column + columns]
    out = out[:, ::-1] if flip else out
    assert abs(out - averaged(covered, len(out), unit=2**16)).max() <= 0.501
    # The weights stay 1 together, so what rounding them adds acts on a pixel's distance from the middle of its range.
    weights = math.ceil(rows / len(out)) + 1
    assert abs(out - averaged(covered, len(out))).max() <= 0.501 + weights * 127.5 * 2**-16


@pytest.mark.parametrize("shape", [(350, 270), (176, 176), (90, 150)], ids=["shrink", "keep", "grow"])
def test_resizing_equals_opencvs_area_where_both_sides_shrink_or_grow(shape):
    import cv2

    pixels, out = picture(*shape), np.empty((176, 176, 3), np.uint8)
    resize_region(pixels.reshape(-1), *shape, 0.0, 0.0, *map(float, shape), False, False, out)
    expected = cv2.resize(pixels, (176, 176), interpolation=cv2.INTER_AREA).astype(int)
    assert abs(out - expected).max() <= 1


@settings(deadline=None, max_examples=60)
@given(height=st.integers(2, 150), width=st.integers(2, 150), size=st.integers(1, 48), ratio=st.floats(0.5, 1))
def test_bilinear_centre_is_torchvisions_resize_and_crop(height, width, size, ratio):
    """Pillow rounds after each direction, and at the eighth bit of a weight."""
    from torchvision import transforms

    shorter = max(size, math.floor(size / ratio + 0.5))
    pixels, out = picture(height, width), np.empty((size, size, 3), np.uint8)
    resize_region(pixels.reshape(-1), height, width, *center_region(height, width, size, ratio), True, False, out)
    theirs = transforms.Compose([transforms.Resize(shorter), transforms.CenterCrop(size)])
    assert abs(out - np.asarray(theirs(Image.fromarray(pixels)), dtype=int)).max() <= 2
