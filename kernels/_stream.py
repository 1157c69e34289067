"""Stores that bypass the caches, for outputs that are too large to stay there until they are read."""

import platform

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from ._compile import compiled
from ._memory import BYTES, LINE, pointer

_X86 = platform.machine() in ("x86_64", "AMD64")  # elsewhere the ordinary barriers order these stores too


@intrinsic
def _line(typing_context, target, source):
    """Copies the 64 bytes at address `source` to `target`, a multiple of 64."""

    def codegen(context, builder, signature, arguments):
        line = ir.VectorType(ir.IntType(32), LINE // 4)
        target, source = (builder.inttoptr(address, line.as_pointer()) for address in arguments)
        store = builder.store(builder.load(source, align=1), target, align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def end_of_stream(typing_context):
    """A barrier: threads that see a later store also see every store streamed before."""

    def codegen(context, builder, signature, arguments):
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse.sfence", (), kind), [])
        return context.get_dummy_value()

    return types.none(), codegen


@compiled
def stream(target, source, size):
    """Copies `size` bytes from address `source` to `target`. Whole cache lines of the target bypass the caches."""
    head = min(-target % np.int64(LINE), size)
    tail = (size - head) % LINE
    _copy(target, source, head)
    for at in range(head, size - tail, LINE):
        _line(target + at, source + at)
    _copy(target + size - tail, source + size - tail, tail)


@compiled
def _copy(target, source, size):
    written, read = carray(pointer(target, BYTES), size), carray(pointer(source, BYTES), size)
    for i in range(size):
        written[i] = read[i]
