"""Emits LLVM for tiles: 64 numbers that stay in vector registers, as eight vectors of eight.

Numba vectorizes a sum over a list of weights neither with its accumulators in registers nor in an order that the source
fixes. What is emitted here is the same on every processor: LLVM only chooses the registers.

A tile in bfloat16 is read as words of two numbers. The lower ones make one vector, the upper ones the next, which takes
one instruction a vector. So the lanes of a tile have another order than memory, and `store` puts them back.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils

BLOCK, LANES = 64, 16
VECTORS = BLOCK // LANES
LONG = ir.IntType(64)
_BIT, _WORD = ir.IntType(1), ir.IntType(32)


class Tiles:
    """Emits code on tiles of one kind.

    dtype: Numba's, of memory: float32, float64, or uint16, which holds bfloat16 and is computed in float32.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: types.Type):
        self.builder, self.halved = builder, dtype == types.uint16
        self.number = ir.DoubleType() if dtype == types.float64 else ir.FloatType()
        self.vector = ir.VectorType(self.number, LANES)
        self.bytes = LONG(LANES * (8 if dtype == types.float64 else 4))  # of a vector
        self.zero = ir.Constant(self.vector, [0.0] * LANES)
        name = f"llvm.fma.v{LANES}f{64 if dtype == types.float64 else 32}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._fma = cgutils.get_or_insert_function(builder.module, kind, name)

    def fma(self, a, b, c):
        """a·b + c, rounded once."""
        return self.builder.call(self._fma, [a, b, c])

    def at(self, address, kind: ir.Type, index: int | ir.Value = 0):
        """The pointer to element `index` of an array of `kind` at an address."""
        index = LONG(index) if isinstance(index, int) else index
        return self.builder.gep(self.builder.inttoptr(address, kind.as_pointer()), [index])

    def words(self, address, index):
        """The int64 at `index` of an array."""
        return self.builder.load(self.at(address, LONG, index))

    def splat(self, scalar):
        """A vector of equal numbers."""
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), scalar, _WORD(0))
        lanes = ir.Constant(ir.VectorType(_WORD, LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), lanes)

    def load(self, address) -> list:
        """The vectors of the tile at an address."""
        b = self.builder
        if not self.halved:
            pointers = [self.at(address, self.vector, j) for j in range(VECTORS)]
            return [b.load(pointer, align=4) for pointer in pointers]
        bits, vectors = ir.VectorType(_WORD, LANES), []
        for j in range(VECTORS // 2):
            word = b.load(self.at(address, bits, j), align=2)
            for half in (b.shl(word, _all(bits, 16)), b.and_(word, _all(bits, 0xFFFF0000))):
                vectors.append(b.bitcast(half, self.vector))
        return vectors

    def store(self, vectors: Sequence, address) -> None:
        """Writes a tile; bfloat16 is rounded to nearest, ties to even."""
        b = self.builder
        if not self.halved:
            for j, vector in enumerate(vectors):
                b.store(vector, self.at(address, self.vector, j), align=4)
            return
        bits = ir.VectorType(_WORD, LANES)
        rounded = [self.rounded(vector, bits) for vector in vectors]
        for j in range(VECTORS // 2):
            low = b.lshr(rounded[2 * j], _all(bits, 16))
            word = b.or_(low, b.and_(rounded[2 * j + 1], _all(bits, 0xFFFF0000)))
            b.store(word, self.at(address, bits, j), align=2)

    def rounded(self, vector, bits):
        """Words whose upper halves are the float32 numbers in bfloat16, rounded to nearest, ties to even."""
        b = self.builder
        word = b.bitcast(vector, bits)
        even = b.and_(b.lshr(word, _all(bits, 16)), _all(bits, 1))
        nearest = b.add(word, b.add(even, _all(bits, 0x7FFF)))
        return b.select(b.fcmp_unordered("uno", vector, vector), _all(bits, 0x7FC00000), nearest)

    def add_to(self, address, vector) -> None:
        """Adds a vector to the one in memory."""
        pointer = self.at(address, self.vector)
        self.builder.store(self.builder.fadd(self.builder.load(pointer, align=4), vector), pointer, align=4)

    def total(self, vectors: Sequence):
        """The sum of the vectors of a tile, pairwise."""
        vectors = list(vectors)
        while len(vectors) > 1:
            vectors = [self.builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        return vectors[0]

    def dot(self, a: Sequence, b: Sequence, start=None):
        """`start` + Σ aⱼ·bⱼ, a vector; in two chains, so that one need not wait for the other."""
        chains = [start, None]
        for j, (x, y) in enumerate(zip(a, b, strict=True)):
            chain = chains[j % 2]
            chains[j % 2] = self.builder.fmul(x, y) if chain is None else self.fma(x, y, chain)
        return self.builder.fadd(*chains)

    def loop(self, start, stop, carried: Sequence, body: Callable[[ir.Value, list], Sequence]) -> list:
        """Emits `for i in range(start, stop): carried = body(i, carried)`, and returns the final `carried`."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        i, values = b.phi(LONG), [b.phi(value.type) for value in carried]
        b.cbranch(b.icmp_signed("<", i, stop), inside, after)
        b.position_at_end(inside)
        following = [b.add(i, LONG(1)), *body(i, values)]
        for phi, first, next_one in zip([i, *values], [start, *carried], following, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(next_one, b.block)
        b.branch(head)
        b.position_at_end(after)
        return values

    def unless_zero(self, address, vectors: Sequence, change: Callable[[], Sequence]) -> list:
        """Emits a choice: `change()` where the address is not 0, else `vectors`."""
        b = self.builder
        before = b.block
        inside, after = b.append_basic_block("given"), b.append_basic_block("joined")
        b.cbranch(b.icmp_signed("!=", address, LONG(0)), inside, after)
        b.position_at_end(inside)
        changed, end = list(change()), b.block
        b.branch(after)
        b.position_at_end(after)
        joined = []
        for old, new in zip(vectors, changed, strict=True):
            phi = b.phi(old.type)
            phi.add_incoming(old, before)
            phi.add_incoming(new, end)
            joined.append(phi)
        return joined


def _all(kind: ir.VectorType, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * LANES)
