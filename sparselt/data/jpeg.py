"""Cuts the blocks that a crop shows out of a JPEG, so that the others need not be decoded.

Entropy-coded data can be cut at restart markers: the data after a marker do not depend on the data before it (ITU-T
T.81, sections B.2.1 and F.2.1.3.1). The pictures of `write_dataset` have a marker after every block; others are decoded
whole. The pixels are the same to the bit, because one more block is kept on every side, and chroma is smoothed over
less than a block.
"""

import math

import numpy as np

from sparselt.kernels._compile import compiled

_START_OF_FRAME, _START_OF_SCAN, _RESTART_INTERVAL = 0xC0, 0xDA, 0xDD
_HUFFMAN_TABLES, _RESTART, _END_OF_IMAGE = 0xC4, 0xD0, 0xD9
_NOTHING = (0, 0, 0, 0, 0)
_STRETCH = 32  # bytes


@compiled
def cut_region(jpeg, height, width, top, left, rows, columns, bilinear, side, out):
    """Writes to `out` a JPEG of the pixels that a region needs to be resized to side x side. See `cut_box`.

    A bilinear resize also needs pixels beside the region.
    """
    reach = max(1.0, rows / side, columns / side) + 1.0 if bilinear else 0.0
    row, column = max(0, math.floor(top - reach)), max(0, math.floor(left - reach))
    bottom, right = min(height, math.ceil(top + rows + reach)), min(width, math.ceil(left + columns + reach))
    return cut_box(jpeg, row, column, bottom - row, right - column, out)


@compiled
def cut_box(jpeg, row, column, height, width, out):
    """Writes to `out` a JPEG that shows a box of pixels and a little around it.

    jpeg: uint8, whole; out: uint8, at least as long; the box lies inside the picture. Returns (bytes written, row and
    column of the picture where it begins, its height, its width): 0 bytes where nothing can be cut.
    """
    frame, interval, scan = _header(jpeg)
    if scan == 0 or frame == 0 or interval == 0 or jpeg[frame + 9] != 3:
        return _NOTHING
    picture_height, picture_width = _two_bytes(jpeg, frame + 5), _two_bytes(jpeg, frame + 7)
    if row + height > picture_height or column + width > picture_width:
        return _NOTHING
    across = down = 1
    for component in range(3):
        sampling = np.int64(jpeg[frame + 11 + 3 * component])
        across, down = max(across, sampling >> 4), max(down, sampling & 15)
    columns = -(-picture_width // (8 * across))
    if columns % interval != 0:
        return _NOTHING
    # A part is the data between two markers.
    top, bottom, shown_rows = _parts(row, height, picture_height, 8 * down)
    left, right, shown_columns = _parts(column, width, picture_width, 8 * across * interval)
    in_row = columns // interval
    length = scan
    _copy(jpeg[:length], out[:length])
    place, skipped, number = scan, top * in_row + left, 0
    for _ in range(top, bottom):
        place = _after_markers(jpeg, place, skipped)
        if place == 0:
            return _NOTHING
        for _ in range(left, right):
            end = _after_markers(jpeg, place, np.int64(1))
            if end == 0:
                return _NOTHING
            _copy(jpeg[place:end], out[length : length + end - place])
            length += end - place
            out[length - 1] = _RESTART + number % 8
            place, number = end, number + 1
        skipped = in_row - (right - left)
    out[length - 1] = _END_OF_IMAGE
    out[frame + 5], out[frame + 6] = shown_rows >> 8, shown_rows & 255
    out[frame + 7], out[frame + 8] = shown_columns >> 8, shown_columns & 255
    return length, top * 8 * down, left * 8 * across * interval, shown_rows, shown_columns


@compiled
def _parts(start, length, total, size):
    """The parts of `size` pixels that show a stretch, and one more on each side: first, last + 1, and their pixels."""
    first = max(0, start // size - 1)
    stop = min(-(-total // size), (start + length - 1) // size + 2)
    return first, stop, min(total - first * size, (stop - first) * size)


@compiled
def _header(jpeg):
    """Where the frame's header begins, the restart interval in blocks, and where the data begin; 0: not found."""
    frame, interval, place = 0, 0, 2
    while place + 18 < len(jpeg) and jpeg[place] == 0xFF:
        marker, length = jpeg[place + 1], _two_bytes(jpeg, place + 2)
        if marker == _START_OF_SCAN:
            return frame, interval, place + 2 + length if place + 2 + length < len(jpeg) else 0
        if marker == _START_OF_FRAME:
            frame = place
        elif marker == _RESTART_INTERVAL:
            interval = _two_bytes(jpeg, place + 4)
        elif 0xC0 < marker <= 0xCF and marker != _HUFFMAN_TABLES:
            return 0, 0, 0  # progressive, or another coding
        place += 2 + length
    return 0, 0, 0


@compiled
def _after_markers(jpeg, place, count):
    """The place after `count` restart markers; the end of the image counts as the last. 0: not found."""
    last = len(jpeg) - 1
    while count > 0:
        # Most stretches hold no marker (0xFF before anything but 0), which vector instructions find quickly. The views
        # spare Numba the case of a negative index, which would prevent vector instructions.
        found = False
        while not found and place + _STRETCH <= last:
            here, there = jpeg[place : place + _STRETCH], jpeg[place + 1 : place + 1 + _STRETCH]
            markers = np.uint8(0)
            for k in range(_STRETCH):
                markers |= np.uint8(here[k] == 0xFF) & np.uint8(there[k] != 0)
            found = markers != 0
            if not found:
                place += _STRETCH
        rest = jpeg[place:]
        for k in range(last - place):
            if rest[k] == 0xFF and rest[k + 1] != 0:
                break
        else:
            return 0
        place += k
        marker = jpeg[place + 1]
        if marker == _END_OF_IMAGE:
            return place + 2 if count == 1 else 0
        if _RESTART <= marker < _RESTART + 8:
            count -= 1
            place += 2
        else:
            place += 1
    return place


@compiled
def _copy(source, target):
    # Numba refuses to assign a slice of a read-only array, as a mapped file is.
    for k in range(len(source)):
        target[k] = source[k]


@compiled
def _two_bytes(jpeg, place):
    return (np.int64(jpeg[place]) << 8) | np.int64(jpeg[place + 1])
