"""How this room compiles for the CPU: Numba without the interpreter lock, kept on disk where a disk can be written."""

from numba import cfunc, njit, types


def compiled(function):
    """`numba.njit(nogil=True)` of `function`, cached on disk.

    Numba caches beside the source, else in the user's cache folder (or in NUMBA_CACHE_DIR). Where it finds none that
    can be written it raises instead of compiling, so the function is then compiled anew in every process.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def callback(function):
    """A C function of one pointer to int64, returning nothing, that threads without an interpreter can run."""
    signature = types.void(types.CPointer(types.int64))
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:
        return cfunc(signature)(function)
