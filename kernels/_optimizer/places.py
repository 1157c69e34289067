"""The places of the live weights in a block of a CPU's mask, which has a byte for each weight."""

import numpy as np
from numba import carray

from .._compile import inlined
from .._memory import LINE, pointer, prefetch
from .layout import PAD


def _table() -> np.ndarray:
    """uint64 [512]: for each byte the places of its ones, in order, as eight uint16 in two numbers."""
    places = np.zeros((256, 8), np.uint16)
    for byte in range(256):
        ones = [k for k in range(8) if byte >> k & 1]
        places[byte, : len(ones)] = ones
    return places.view(np.uint64).ravel()


ONES, EIGHTS = _table(), np.empty(0, np.uint64)
# Of a number whose eight bytes are 0 or 1: its bytes as bits, and their sum, in the top byte of a product.
PACK, ADD, TOP = np.uint64(0x0102040810204080), np.uint64(0x0101010101010101), np.uint64(56)
FOUR = np.uint64(0x0001000100010001)  # a number in each of four uint16


@inlined
def places_of(places, live, weights, gradients):
    """Writes the places of the ones in `live` to `places`, eight at a time, and returns their number.

    Meanwhile it begins to load the next block, which the processor itself does not: its accesses follow no pattern.
    """
    eights = carray(pointer(live.ctypes.data, EIGHTS), (live.size + 7) // 8)
    address, count = places.ctypes.data, 0
    for i in range(eights.size):
        if 8 * i * weights.itemsize % LINE == 0:
            prefetch(weights.ctypes.data + (PAD + 8 * i) * weights.itemsize)
            prefetch(gradients.ctypes.data + (PAD + 8 * i) * gradients.itemsize)
        byte, start = (eights[i] * PACK) >> TOP, np.uint64(8 * i) * FOUR
        written = carray(pointer(address + 2 * count, EIGHTS), 2)
        written[0], written[1] = ONES[2 * byte] + start, ONES[2 * byte + np.uint64(1)] + start
        count += np.int64((eights[i] * ADD) >> TOP)
    while count > 0 and places[count - 1] >= live.size:  # the last eight may reach into the padding
        count -= 1
    return count
