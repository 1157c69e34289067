"""Splits a compiled function over threads: Python's, of functions that hold no interpreter lock, not Numba's.

Numba's workqueue layer aborts the process when two threads enter it, and FFCV's loader is in it all the time.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import torch


def split(function: Callable, arguments: tuple, total: int, parallel_from: int) -> None:
    """`function(*arguments, start, stop)` over [0, total), from `parallel_from` on a part for each torch thread."""
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


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sparselt-kernels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has the pool's record but none of its threads
