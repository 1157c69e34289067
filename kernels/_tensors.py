"""The addresses of many tensors, read and checked in one compiled call.

Asking a tensor for address, strides, shape, dtype and device takes 0.4 µs in Python: for a small network, longer than
the optimizer's arithmetic. DLPack's C exchange interface (`Tensor.__dlpack_c_exchange_api__`, DLPack 1.3) answers
in 0.02 µs. Where torch does not offer it, Python asks.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from ._compile import callback
from ._memory import pointer

# Fields of a job. Then follow, for each object: its id, its address, and where its expected layout begins.
DIFFERS, MISSING, COUNT, FUNCTION, NONE, EXPECTED, HEADER = range(7)
# Words of a DLTensor: address; device and its number; dimensions and dtype; addresses of shape and strides; offset.
WORDS = 6
LONG = np.empty(0, np.int64)


class Siblings:
    """Compares tensors with others of the same layout: parameters with their gradients.

    tensors: their present shapes, strides, dtypes and devices are the ones that `addresses` expects.
    like: tensors like which the others are expected to be; default: the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor], like: Sequence[Tensor] | None = None):
        self.tensors = list(tensors)
        every = [*self.tensors, *(tensors if like is None else like)]
        self._kinds = list(map(_kind, every))
        self._exchange = _exchange()
        if self._exchange is None:
            return
        expected: list[int] = []
        starts, words = [], (ctypes.c_int64 * WORDS)()
        for tensor in every:
            self._exchange(id(tensor), ctypes.addressof(words))
            starts.append(len(expected))
            expected += [words[1], words[2], *tensor.shape, *tensor.stride()]
        count = len(self.tensors)
        self._expected = np.array(expected, dtype=np.int64)
        self._job = np.zeros(HEADER + 6 * count, dtype=np.int64)
        self._job[:HEADER] = (0, 0, 2 * count, _address_of_exchange(), id(None), self._expected.ctypes.data)
        self._others = self._job[HEADER + count : HEADER + 2 * count]
        self._job[HEADER : HEADER + count] = list(map(id, self.tensors))
        self._found = self._job[HEADER + 2 * count : HEADER + 4 * count]
        self._job[HEADER + 4 * count :] = starts
        self._compare = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_body().address)  # holds the interpreter lock
        self._at = self._job.ctypes.data

    def addresses(self, others: Sequence[Tensor | None]) -> np.ndarray | None:
        """int64 addresses of the tensors, then of the others (0 for None). The next call overwrites them.

        Returns None if a tensor or one of the others differs from the expected shape, strides, dtype or device. Strides
        of dimensions of size 1, and of tensors without elements, are not compared.
        """
        if self._exchange is None:
            every, self._missing = [*self.tensors, *others], any(other is None for other in others)
            if any(t is not None and _kind(t) != kind for t, kind in zip(every, self._kinds, strict=True)):
                return None
            return addresses_of(self.tensors, others)
        self._others[:] = list(map(id, others))
        try:
            self._compare(self._at)
        except RuntimeError:  # a tensor without memory of its own: sparse or meta
            return None
        return None if self._job[DIFFERS] else self._found

    @property
    def some_missing(self) -> bool:
        """Whether one of the others was None in the last call of `addresses`."""
        return self._missing if self._exchange is None else bool(self._job[MISSING])


def addresses_of(tensors: Sequence[Tensor], others: Sequence[Tensor | None]) -> np.ndarray:
    """int64 addresses of the tensors, then of the others (0 for None), unchecked."""
    return np.array([*map(Tensor.data_ptr, tensors), *(0 if t is None else t.data_ptr() for t in others)], np.int64)


def _kind(tensor: Tensor) -> tuple:
    if tensor.layout != torch.strided:
        return (tensor.layout,)
    sizes = tensor.shape if tensor.numel() else ()
    strides = tuple(stride for stride, size in zip(tensor.stride(), sizes, strict=False) if size != 1)
    return tensor.shape, strides, tensor.dtype, tensor.device


@lru_cache(maxsize=1)
def _address_of_exchange() -> int:
    """Address of dltensor_from_py_object_no_sync(object, DLTensor *), the fourth function of the interface, or 0."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return 0
    unpack = ctypes.pythonapi.PyCapsule_GetPointer
    unpack.restype, unpack.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    try:
        table = (ctypes.c_uint64 * 6).from_address(unpack(capsule, b"dlpack_exchange_api"))
    except ValueError:
        return 0
    major = table[0] & 0xFFFFFFFF
    return table[5] if major == 1 else 0


def _exchange():
    address = _address_of_exchange()
    return ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(address) if address else None


@intrinsic
def _ask(typing_context, function, tensor, words):
    """Calls function(tensor, words) of the C exchange interface; nonzero after an error, which Python then raises."""

    def codegen(context, builder, signature, arguments):
        number, word = ir.IntType(32), ir.IntType(64)
        kind = ir.FunctionType(number, [word, word]).as_pointer()
        status = builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])
        return builder.sext(status, word)

    return types.int64(types.int64, types.int64, types.int64), codegen


@lru_cache(maxsize=1)
def _body():
    return callback(_look)


def _look(job_pointer):
    job = carray(job_pointer, HEADER)
    count = job[COUNT]
    objects = carray(job_pointer, HEADER + 3 * count)[HEADER:].reshape((3, count))
    words = np.empty(WORDS, np.int64)
    differs, job[MISSING] = 0, 0
    for i in range(count):
        if objects[0, i] == job[NONE]:
            objects[1, i] = 0
            job[MISSING] = 1
            continue
        if _ask(job[FUNCTION], objects[0, i], words.ctypes.data) != 0:
            differs = 1
            break
        expected = carray(pointer(job[EXPECTED] + 8 * objects[2, i], LONG), 2 + 2 * 64)
        dimensions = words[2] & 0xFFFF
        if words[1] != expected[0] or words[2] != expected[1]:
            differs = 1
            break
        shape, strides = carray(pointer(words[3], LONG), dimensions), carray(pointer(words[4], LONG), dimensions)
        empty = False
        for j in range(dimensions):
            empty = empty or shape[j] == 0
        for j in range(dimensions):
            size = expected[2 + j]
            if shape[j] != size or (size != 1 and not empty and strides[j] != expected[2 + dimensions + j]):
                differs = 1
        if differs:
            break
        objects[1, i] = words[0] + words[5]
    job[DIFFERS] = differs
