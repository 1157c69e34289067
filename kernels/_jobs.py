"""Jobs: work on tiles that a compiled function finds in an array of addresses and numbers, and shares among threads.

A network's jobs are made once and run in every step: a call takes 1 µs, and arguments would take 10.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ._memory import AS
from ._threads import share

# The first words: the counter that threads take units from, the number of units, and of threads.
NEXT, UNITS, THREADS, FIRST = range(4)
LONG, DOUBLE = np.empty(0, np.int64), np.empty(0)

# These functions are not cached. The callback around them is, under a key that includes the files.
inlined = njit(nogil=True, error_model="numpy")


class Job:
    """Work that can be run any number of times.

    body: of `_compile.callback`. arrays: what it reads and writes, None for 0; their memory must stay where it is.
    numbers: follow the addresses. parallel: whether threads share the units.
    """

    def __init__(
        self,
        body,
        units: int,
        arrays: Sequence[Tensor | np.ndarray | None],
        numbers: Sequence[int] = (),
        parallel: bool = False,
    ):
        self._body, self._arrays, self._parallel = body, arrays, parallel
        self.words = np.array([0, units, 1, *map(_address, arrays), *numbers], np.int64)
        self._pointer = self.words.ctypes.data

    def run(self) -> None:
        """Does the work, and waits for it."""
        self.words[NEXT] = 0
        self.words[THREADS] = torch.get_num_threads() if self._parallel else 1
        share(self._body, self._pointer, self._parallel)


@lru_cache
def types_of(dtype: torch.dtype, *files: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The types that a callback needs for tiles of this dtype.

    Empty arrays of the type of tiles and of what is computed; a number that changes with the text of the files, from
    which the machine code is made. The work itself must be a global name there: Numba's cache finds no other.
    """
    number = AS[torch.float64 if dtype == torch.float64 else torch.float32]
    return AS[dtype], number, zlib.crc32(b"".join(map(Path.read_bytes, map(Path, sorted({__file__, *files})))))


def _address(array: Tensor | np.ndarray | None) -> int:
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data
