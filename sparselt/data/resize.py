"""Cuts a region out of a picture and resizes it: one compiled function for every reader.

By area, a pixel of the result is the average of the part of the region that it covers, as OpenCV's INTER_AREA where
both sides shrink or both grow. Bilinear, it is the average under a triangle that grows with the reduction, as Pillow
and torchvision (antialias) resize. LLVM turns the loops into vector instructions. Weights are rounded so that every
product and sum is exact (8 + 16 bits in float32 down, 24 + 28 in float64 across): the bytes are the same for any
instructions that this is compiled to.
"""

import math

import numpy as np

from sparselt.kernels._compile import compiled

_DOWN, _ACROSS = 2.0**16, 2.0**28
_1, _2, _3, _6 = np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(6)


@compiled
def resize_region(pixels, height, width, top, left, rows, columns, bilinear, flip, target):
    """Fills `target`, uint8 [side, side, 3], from a region of a picture, mirrored if `flip`.

    pixels: uint8, flat, of height x width x 3. top, left, rows, columns: the region inside the picture, in fractional
    pixels. A bilinear resize also uses pixels beside the region, where there are any.
    """
    side = target.shape[0]
    first_row, weights_down = _weights(top, rows, height, side, bilinear, _DOWN)
    first_column, weights_across = _weights(left, columns, width, side, bilinear, _ACROSS)
    weights_down = weights_down.astype(np.float32)
    many = weights_across.shape[1]
    begin = np.int64(first_column.min())
    length = 3 * (min(width, np.int64(first_column.max()) + many) - begin)
    first_column -= np.uintp(begin)
    across = np.zeros(length + 3 * many + 4, np.float64)  # numbers past the row have no weight
    mixed = np.empty(3 * side + 4, np.float64)
    for y in range(side):
        start = 3 * (np.int64(first_row[y]) * width + begin)
        _average_rows(pixels, start, 3 * width, weights_down[y], length, across)
        _average_columns(across, first_column, weights_across, flip, mixed)
        line = target[y].reshape(-1)
        for k in range(len(line)):
            line[k] = np.uint8(mixed[k] + 0.5)


@compiled
def _weights(start, length, total, side, bilinear, unit):
    """For each of `side` pixels over a stretch: the first source pixel that counts, and the weights from it on.

    The weights of a pixel are multiples of 1 / unit; their sum is 1.
    """
    scale = length / side
    reach = max(1.0, scale) if bilinear else 0.5 * scale
    many = max(3, math.ceil(2 * reach) + (2 if bilinear else 1))
    first, weights = np.empty(side, np.uintp), np.zeros((side, many), np.float64)
    for i in range(side):
        centre = start + (i + 0.5) * scale
        begin = min(max(0, math.floor(centre - reach + 1e-6)), total - 1)
        first[i] = begin
        whole = 0.0
        for tap in range(min(many, total - begin)):
            place = begin + tap
            if bilinear:
                weight = max(0.0, 1.0 - abs(place + 0.5 - centre) / reach)
            else:
                weight = min(centre + reach, place + 1.0) - max(centre - reach, float(place))
                # Rounding may leave a sliver of the pixel after the last.
                weight = weight if weight > 1e-6 * scale else 0.0
            weights[i, tap] = weight
            whole += weight
        rest, largest = 1.0, 0
        for tap in range(many):
            weights[i, tap] = math.floor(weights[i, tap] / whole * unit + 0.5) / unit
            rest -= weights[i, tap]
            if weights[i, tap] > weights[i, largest]:
                largest = tap
        weights[i, largest] += rest
    return first, weights


@compiled
def _average_rows(pixels, start, stride, weights, length, out):
    """out[:length] = the weighted sum of consecutive rows of a picture."""
    w0, w1, w2 = weights[0], weights[1], weights[2]
    a = pixels[start : start + length]
    if w1 == 0 and w2 == 0:
        for k in range(length):
            out[k] = w0 * np.float32(a[k])
        return
    b = pixels[start + stride : start + stride + length]
    if w2 == 0:
        for k in range(length):
            out[k] = w0 * np.float32(a[k]) + w1 * np.float32(b[k])
        return
    c = pixels[start + 2 * stride : start + 2 * stride + length]
    for k in range(length):
        out[k] = w0 * np.float32(a[k]) + w1 * np.float32(b[k]) + w2 * np.float32(c[k])
    for tap in range(3, len(weights)):
        weight = weights[tap]
        if weight == 0:
            return
        d = pixels[start + tap * stride : start + tap * stride + length]
        for k in range(length):
            out[k] += weight * np.float32(d[k])


@compiled
def _average_columns(across, first, weights, flip, out):
    """out[:3 * side] = the weighted sums of consecutive pixels of one row, mirrored if `flip`."""
    side, many = weights.shape
    for place in range(side):
        x = side - 1 - place if flip else place
        j, o = first[x] * _3, np.uintp(3 * place)
        w0, w1, w2 = weights[x, 0], weights[x, 1], weights[x, 2]
        # Four numbers fill a vector: the fourth is overwritten by the next pixel.
        a = w0 * across[j] + w1 * across[j + _3] + w2 * across[j + _6]
        b = w0 * across[j + _1] + w1 * across[j + _3 + _1] + w2 * across[j + _6 + _1]
        c = w0 * across[j + _2] + w1 * across[j + _3 + _2] + w2 * across[j + _6 + _2]
        d = w0 * across[j + _3] + w1 * across[j + _3 + _3] + w2 * across[j + _6 + _3]
        for tap in range(3, many):
            weight, at = weights[x, tap], j + np.uintp(3 * tap)
            if weight == 0:
                break
            a += weight * across[at]
            b += weight * across[at + _1]
            c += weight * across[at + _2]
            d += weight * across[at + _3]
        out[o] = a
        out[o + _1] = b
        out[o + _2] = c
        out[o + _3] = d
