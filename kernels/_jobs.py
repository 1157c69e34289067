"""Jobs: work on tiles that a compiled function finds in an array of addresses and numbers, and shares among threads.

A network's jobs are made once and run in every step: a call takes 1 µs, and arguments would take 10. On one thread a
chain of jobs is one call.
"""

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from ._compile import callback, inlined
from ._memory import AS, take
from ._threads import share

# The first words: the counter that threads take units from, the number of units, and of threads.
NEXT, UNITS, THREADS, FIRST = range(4)
LONG, DOUBLE = np.empty(0, np.int64), np.empty(0)


@inlined
def take_stretch(job_pointer):
    """The stretch of units that a thread does next, (start, stop); (-1, -1) when all are taken.

    There is one for each thread, in the order of memory, as in torch's own operations: so a thread mostly finds in its
    own cache what it wrote in the operation before.
    """
    job = carray(job_pointer, FIRST)
    thread = take(job_pointer, 1)
    if thread >= job[THREADS]:
        return -1, -1
    return job[UNITS] * thread // job[THREADS], job[UNITS] * (thread + 1) // job[THREADS]


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

    @property
    def call(self) -> tuple[int, int]:
        """The addresses of the compiled function and of its argument."""
        return self._body.address, self._pointer


class Chain:
    """Jobs that run one after the other, to the same result as one by one. jobs: also others that have `run`."""

    def __init__(self, jobs: Iterable):
        self._jobs = list(jobs)
        self._parts: list = []
        for compiled, group in groupby(self._jobs, lambda job: isinstance(job, Job)):
            several = list(group)
            if compiled:
                calls = np.array([job.call for job in several], np.int64)
                words = np.array([len(calls), calls.ctypes.data], np.int64)
                self._parts.append((share, (_chain_body(), words.ctypes.data, False), calls, words))
            else:
                self._parts += [(job.run, ()) for job in several]

    def run(self) -> None:
        """Does the work, and waits for it."""
        if torch.get_num_threads() > 1:
            for job in self._jobs:
                job.run()
        else:
            for function, arguments, *_ in self._parts:
                function(*arguments)


@lru_cache
def types_of(dtype: torch.dtype, *files: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The types that a callback needs for tiles of this dtype.

    Empty arrays of the type of tiles and of what is computed; a number that changes with the text of the files, from
    which the machine code is made. The work itself must be a global name there: Numba's cache finds no other.
    """
    number = AS[torch.float64 if dtype == torch.float64 else torch.float32]
    return AS[dtype], number, zlib.crc32(b"".join(map(Path.read_bytes, map(Path, sorted({__file__, *files})))))


@lru_cache
def _chain_body():
    return callback(lambda job: _run_chain(job))


@inlined
def _run_chain(chain_pointer):
    chain = carray(chain_pointer, 2)
    for k in range(chain[0]):
        _reset_and_call(chain[1] + 16 * k)


@intrinsic
def _reset_and_call(typing, entry):
    """Runs a job on this thread. entry: the address of its function's address and its own."""

    def codegen(context, builder, signature, arguments):
        word = ir.IntType(64)
        function, job = (
            builder.load(builder.inttoptr(builder.add(arguments[0], word(8 * place)), word.as_pointer()))
            for place in (0, 1)
        )
        words = builder.inttoptr(job, word.as_pointer())
        builder.store(word(0), builder.gep(words, [word(NEXT)]))
        builder.store(word(1), builder.gep(words, [word(THREADS)]))
        kind = ir.FunctionType(ir.VoidType(), [word.as_pointer()])
        builder.call(builder.inttoptr(function, kind.as_pointer()), [words])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


def _address(array: Tensor | np.ndarray | None) -> int:
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data
