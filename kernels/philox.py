"""Philox4x32-10, the random numbers of augmentation and sample order: functions of (seed, sample, epoch, stream).

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011). Two implementations that agree bit
for bit, with each other and with `triton.language.philox(seed, counter0, counter1, counter2, counter3)`:
`philox4x32` (NumPy, many counters at once) and `philox4x32_scalar` (Numba, one counter, inside compiled code).

The convention of every draw: key = (low, high) 32 bits of the seed; counter = (sample index, epoch, stream, 0).
A whole number below n is `below(word, n)`, a fraction in [0, 1) is `fraction(word)`, a coin is the word's highest bit.
"""

import numpy as np

from ._compile import compiled

CROP, FLIP, ORDER = 0, 1, 2  # streams; the crop's row comes from word 0 of its stream, the column from word 1

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def key_of(seed: int) -> tuple[int, int]:
    """The key (low 32 bits, high 32 bits) of a seed in [0, 2**64)."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is outside [0, 2**64)")
    return seed & 0xFFFFFFFF, seed >> 32


def philox4x32(counters: np.ndarray, key0: int, key1: int) -> np.ndarray:
    """Four random words for each counter. counters: [N, 4] whole numbers below 2**32; returns [N, 4] uint32."""
    c0, c1, c2, c3 = np.asarray(counters).astype(np.uint64).T & _LOW
    k0, k1 = np.uint64(key0), np.uint64(key1)
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (product1 >> _HALF) ^ c1 ^ k0, product1 & _LOW, (product0 >> _HALF) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


@compiled
def philox4x32_scalar(counter0, counter1, counter2, counter3, key0, key1):
    """Four random words (uint32) for one counter and key, each a whole number below 2**32 of any integer type."""
    c0, c1 = np.uint64(counter0) & _LOW, np.uint64(counter1) & _LOW
    c2, c3 = np.uint64(counter2) & _LOW, np.uint64(counter3) & _LOW
    k0, k1 = np.uint64(key0) & _LOW, np.uint64(key1) & _LOW
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1 = (product1 >> _HALF) ^ c1 ^ k0, product1 & _LOW
        c2, c3 = (product0 >> _HALF) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)


@compiled
def below(word, bound):
    """A whole number (int64) in [0, bound) from one random word: floor(word * bound / 2**32), for bound <= 2**32."""
    return np.int64((np.uint64(word) * np.uint64(bound)) >> _HALF)


@compiled
def fraction(word):
    """A float64 in [0, 1), a multiple of 2**-32, from one random word."""
    return np.float64(word) * 2.0**-32
