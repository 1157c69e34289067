"""How Numba reads a list of tensors in one call: by address. It reads bfloat16 as the upper half of a float32."""

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# The NumPy type as which a tensor's memory is read. Numba has no bfloat16.
AS: dict[torch.dtype, np.ndarray] = {
    torch.float32: np.empty(0, np.float32),
    torch.float64: np.empty(0),
    torch.bfloat16: np.empty(0, np.uint16),
}
BYTES = np.empty(0, np.uint8)
LINE = 64  # bytes of a cache line


@intrinsic
def pointer(typing_context, address, like):
    """The address, as a pointer to elements of the array `like`."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@intrinsic
def prefetch(typing_context, address):
    """Begins to load the cache line at an address. Invalid addresses do no harm."""

    def codegen(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        # For reading, into the second-level cache, as data.
        builder.call(function, [builder.inttoptr(arguments[0], byte), number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@intrinsic
def take(typing_context, counter, number):
    """Adds `number` to the int64 counter at this pointer, atomically, and returns its former value."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", arguments[0], arguments[1], "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), codegen


def read(array, i):
    """array[i] as a number; uint16 holds bfloat16."""


def write(array, i, number):
    """array[i] = number; uint16 holds bfloat16, rounded to nearest, ties to even."""


@overload(read, inline="always")
def _read_overload(array, i):
    if array.dtype == types.uint16:
        return lambda array, i: np.uint32(np.uint32(array[i]) << np.uint32(16)).view(np.float32)
    return lambda array, i: array[i]


@overload(write, inline="always")
def _write_overload(array, i, number):
    if array.dtype != types.uint16:

        def store(array, i, number):
            array[i] = number

        return store

    def round_and_store(array, i, number):
        bits = np.float32(number).view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = np.uint32(bits + np.uint32(0x7FFF) + even) >> np.uint32(16)
        array[i] = np.uint16(rounded) if number == number else np.uint16(0x7FC0)

    return round_and_store
