"""How the kernels compile for the CPU: with Numba, without the interpreter lock, cached on disk if possible."""

from typing import Any

from numba import cfunc, njit, types

_WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # not in Numba's types
inlined = njit(nogil=True, error_model="numpy", **_WITHOUT_WRAPPERS)
"""For functions that only compiled functions call. Numba caches the callback around them, not them.

Numba would also compile wrappers, for calls from Python and from C. Leaving these out saves a sixth of the time.
"""


def compiled(function):
    """`numba.njit(nogil=True)` of `function`, cached on disk.

    Numba caches beside the source, else in the user's cache folder (or in NUMBA_CACHE_DIR). If it can write to none of
    them it raises; the function is then compiled without a cache, anew in every process.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def callback(function):
    """A C function that takes a pointer to int64, returns nothing, and runs on threads without an interpreter."""
    signature = types.void(types.CPointer(types.int64))
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:
        return cfunc(signature)(function)
