"""Stores past the caches: they copy what they are told to, and nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.kernels._stream import stream


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 500), st.integers(0, 130), st.integers(0, 70))
def test_copies_so_many_bytes_whatever_the_alignment(size, target_offset, source_offset):
    source = np.random.default_rng(size).integers(0, 256, 600, dtype=np.uint8)
    target = np.full(800, 7, np.uint8)
    stream(target.ctypes.data + target_offset, source.ctypes.data + source_offset, size)
    expected = np.full(800, 7, np.uint8)
    expected[target_offset : target_offset + size] = source[source_offset : source_offset + size]
    np.testing.assert_array_equal(target, expected)
