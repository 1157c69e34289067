"""Runs compiled functions on several threads without the interpreter lock.

Numba's own threads will not do: its workqueue layer aborts the process when two threads enter it, and FFCV's loader is
always in it. `share` borrows torch's OpenMP threads, which start within 2 µs after work of torch; Python's threads,
which `split` uses, take 60 µs.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path

import torch


def split(function: Callable, arguments: tuple, total: int, parallel_from: int) -> None:
    """Calls `function(*arguments, start, stop)` over [0, total); on torch's number of threads from `parallel_from`."""
    threads = torch.get_num_threads()
    if threads == 1 or total < parallel_from:
        function(*arguments, 0, total)
        return
    edges = [total * i // threads for i in range(threads + 1)]
    parts = [_pool(threads - 1).submit(function, *arguments, *edges[i : i + 2]) for i in range(1, threads)]
    try:
        function(*arguments, 0, edges[1])
    finally:
        wait(parts)
    for part in parts:
        part.result()


def share(body, address: int, parallel: bool) -> None:
    """Runs `body` (of `_compile.callback`) on a job, on every torch thread if `parallel`, and waits for all of them.

    address: of the job, an int64 array. Threads take their parts by `_memory.take` from the counter in its first word,
    so a late thread does not delay the others.
    """
    threads = torch.get_num_threads() if parallel else 1
    if threads == 1:
        _call(body)(address)
        return
    openmp = None if _forked else _openmp()
    if openmp is not None:
        openmp(body.address, address, threads, 0)
        return
    parts = [_pool(threads - 1).submit(_call(body), address) for _ in range(1, threads)]
    _call(body)(address)
    wait(parts)


@lru_cache
def _call(body) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(body.address)


@lru_cache(maxsize=1)
def _openmp() -> Callable | None:
    """GOMP_parallel(function, argument, threads, flags) of the OpenMP library that torch has loaded, or None."""
    try:
        function = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sparselt-kernels")


_forked = False


def _after_fork() -> None:
    # A forked child inherits the records of the pool and of OpenMP, but none of their threads.
    global _forked
    _pool.cache_clear()
    _forked = True


os.register_at_fork(after_in_child=_after_fork)
