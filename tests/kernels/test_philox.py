"""Philox4x32-10 against its authors' vectors, and the draws made from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.kernels.philox import below, fraction, key_of, philox4x32, philox4x32_scalar

# Known-answer tests of the Random123 library (kat_vectors, "philox4x32 10"): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
words = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    assert tuple(philox4x32(np.array([counter]), *key)[0]) == result
    assert philox4x32_scalar(*counter, *key) == result


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.tuples(words, words, words, words), words, words)
def test_scalar_and_vectorized_agree(counter, key0, key1):
    assert tuple(philox4x32(np.array([counter, counter]), key0, key1)[1]) == philox4x32_scalar(*counter, key0, key1)


def test_vectorized_returns_uint32_a_row_a_counter():
    assert philox4x32(np.zeros((0, 4), np.uint32), 1, 2).shape == (0, 4)
    assert philox4x32(np.zeros((3, 4), np.int64), 1, 2).dtype == np.uint32


@settings(max_examples=100, deadline=None, derandomize=True)
@given(words, st.integers(1, 2**32))
def test_below_and_fraction_stay_in_range(word, bound):
    assert below(word, bound) == word * bound >> 32
    assert 0 <= below(word, bound) < bound
    assert fraction(word) == word / 2**32


def test_a_seed_is_split_into_low_and_high_words():
    assert key_of(0x0123456789ABCDEF) == (0x89ABCDEF, 0x01234567)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"outside \[0, 2\*\*64\)"):
            key_of(seed)
