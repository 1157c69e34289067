"""The innermost loops of Winograd's algorithm, written in LLVM's instructions, which Numba compiles.

A vector holds sixteen channels of one pixel.

The algorithm's matrices have six rows, one for each of the points 0, 1, -1, 2, -2 and infinity. The rows of 1 and -1
have the same numbers in even columns and opposite ones in odd columns; so have those of 2 and -2. What a pair of rows
shares is computed once.
"""

from collections.abc import Callable, Sequence
from itertools import starmap

from llvmlite import binding, ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from .._vectors import LANES, LONG, Tiles

TILE, PATCH, TAPS = 4, 6, 3  # pixels of an output tile's side, of the patch it is made of, and of the kernel's side
GROUP = 12  # tiles of a group, at least; a multiple of LINES below

Matrix = tuple[tuple[float, ...], ...]
# Lavin & Gray 2016, section 4.3, and their transposes.
PIXELS: Matrix = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0))
PIXELS += ((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
KERNEL: Matrix = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6))
KERNEL += ((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
BACK: Matrix = ((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1))
_PAIRS = ((1, 2), (3, 4))
_ADDRESS = types.int64
_WORD, _HALVES = ir.IntType(32), ir.VectorType(ir.IntType(16), LANES)
# The processor features that Numba compiles for: NUMBA_CPU_FEATURES if it is set, else all that this machine has.
_FEATURES = getattr(config, "CPU_FEATURES", None) or binding.get_host_cpu_features().flatten()
_WIDE = "+avx512f" in _FEATURES


class _Channels(Tiles):
    """Emits code on vectors of sixteen channels."""

    def load_one(self, address):
        return self.builder.load(self.at(address, self.vector), align=4)

    def store_one(self, vector, address) -> None:
        self.builder.store(vector, self.at(address, self.vector), align=4)

    def load_pixel(self, address):
        """The channels of a pixel. bfloat16 is the upper half of a float32."""
        if not self.halved:
            return self.load_one(address)
        b, words = self.builder, ir.VectorType(_WORD, LANES)
        halves = b.load(self.at(address, _HALVES), align=2)
        return b.bitcast(b.shl(b.zext(halves, words), ir.Constant(words, [16] * LANES)), self.vector)

    def store_pixel(self, vector, address) -> None:
        """Writes the channels of a pixel; bfloat16 is rounded to nearest, ties to even."""
        if not self.halved:
            return self.store_one(vector, address)
        b, words = self.builder, ir.VectorType(_WORD, LANES)
        rounded = b.lshr(self.rounded(vector, words), ir.Constant(words, [16] * LANES))
        b.store(b.trunc(rounded, _HALVES), self.at(address, _HALVES), align=2)

    def broadcast(self, address):
        return self.splat(self.builder.load(self.at(address, self.number)))

    def combination(self, coefficients: Sequence[float], vectors: Sequence):
        """Σ coefficient · vector."""
        b, total = self.builder, None
        for coefficient, vector in zip(coefficients, vectors, strict=True):
            if not coefficient:
                continue
            constant = ir.Constant(self.vector, [float(coefficient)] * LANES)
            if total is None:
                total = vector if coefficient == 1 else b.fmul(constant, vector)
            elif abs(coefficient) == 1:
                total = (b.fadd if coefficient == 1 else b.fsub)(total, vector)
            else:
                total = self.fma(constant, vector, total)
        return self.zero if total is None else total

    def by_rows(self, matrix: Matrix, vectors: Sequence) -> list:
        """matrix · vectors, for a matrix of six rows.

        Two rows of a pair need one sum over the even columns and one over the odd columns: the first row's product is
        the sum of both, the second row's their difference.
        """
        b, products = self.builder, [self.combination(row, vectors) for row in (matrix[0], matrix[-1])]
        for i, j in _PAIRS:
            even = self.combination([(x + y) / 2 for x, y in zip(matrix[i], matrix[j], strict=True)], vectors)
            odd = self.combination([(x - y) / 2 for x, y in zip(matrix[i], matrix[j], strict=True)], vectors)
            products[-1:-1] = [b.fadd(even, odd), b.fsub(even, odd)]
        return products

    def by_columns(self, matrix: Matrix, vectors: Sequence) -> list:
        """matrixᵀ · vectors, for such a matrix and six vectors.

        The two vectors of a pair are first replaced by their sum and their difference.
        """
        b, mixed = self.builder, list(vectors)
        rows: list[Sequence[float]] = list(matrix)
        for i, j in _PAIRS:
            mixed[i : j + 1] = b.fadd(vectors[i], vectors[j]), b.fsub(vectors[i], vectors[j])
            rows[i : j + 1] = (
                [(x + y) / 2 for x, y in zip(matrix[i], matrix[j], strict=True)],
                [(x - y) / 2 for x, y in zip(matrix[i], matrix[j], strict=True)],
            )
        return [self.combination(column, mixed) for column in zip(*rows, strict=True)]

    def both_ways(self, product: Callable, matrix: Matrix, columns: Sequence[Sequence]) -> list[list]:
        """matrix · square · matrixᵀ, row by row. product: `by_rows`, or `by_columns` for its transpose."""
        down = [product(matrix, column) for column in columns]
        return [product(matrix, row) for row in zip(*down, strict=True)]


def _transform_of(matrix: Matrix, side: int):
    """A function for Numba that computes matrix · square · matrixᵀ. side: of the square, in pixels."""

    @intrinsic
    def transform(typing, like, places, offset, target, step):
        """places: the address of the pixels' addresses, row by row. The 36 vectors go `step` bytes apart."""

        def codegen(context, builder, signature, arguments):
            places, offset, target, step = arguments[1:]
            one = _Channels(builder, signature.args[0].dtype)

            def pixel(y, x):
                return one.load_pixel(builder.add(one.words(places, y * side + x), offset))

            columns = [[pixel(y, x) for y in range(side)] for x in range(side)]
            _spread(one, one.both_ways(one.by_rows, matrix, columns), target, step)
            return context.get_dummy_value()

        return types.none(like, *[_ADDRESS] * 4), codegen

    return transform


transform_patch = _transform_of(PIXELS, PATCH)
transform_gradient = _transform_of(BACK, TILE)


@intrinsic
def transform_kernel(typing, like, source, from_step, target, step):
    """KERNEL · kernel · KERNELᵀ: from nine vectors, `from_step` bytes apart, to 36, `step` bytes apart."""

    def codegen(context, builder, signature, arguments):
        source, from_step, target, step = arguments[1:]
        one = _Channels(builder, signature.args[0].dtype)
        columns = _gathered(one, source, from_step, TAPS)
        _spread(one, one.both_ways(one.by_rows, KERNEL, columns), target, step)
        return context.get_dummy_value()

    return types.none(like, *[_ADDRESS] * 4), codegen


@intrinsic
def finish_tile(typing, like, source, step, places, residuals, offset, bias, relu):
    """The tile BACKᵀ · products · BACK, plus bias, plus a residual, at least 0.

    places, residuals: the addresses of 16 addresses, of what is written and of what is added. bias: the address of a
    vector. An address or `relu` of 0 leaves out its part.
    """

    def codegen(context, builder, signature, arguments):
        source, step, places, residuals, offset, bias, relu = arguments[1:]
        one = _Channels(builder, signature.args[0].dtype)
        rows = one.both_ways(one.by_columns, BACK, _gathered(one, source, step, PATCH))
        out = [vector for row in rows for vector in row]

        def shifted():
            shift = one.load_one(bias)
            return [builder.fadd(vector, shift) for vector in out]

        out = one.unless_zero(bias, out, shifted)

        def added():
            others = [one.load_pixel(builder.add(one.words(residuals, k), offset)) for k in range(len(out))]
            return list(starmap(builder.fadd, zip(out, others, strict=True)))

        out = one.unless_zero(residuals, out, added)

        def cut():
            return [builder.select(builder.fcmp_ordered("<=", x, one.zero), one.zero, x) for x in out]

        out = one.unless_zero(relu, out, cut)
        for k, vector in enumerate(out):
            one.store_pixel(vector, builder.add(one.words(places, k), offset))
        return context.get_dummy_value()

    return types.none(like, *[_ADDRESS] * 7), codegen


@intrinsic
def finish_kernel(typing, like, source, step, parts, part_step, target, to_step):
    """KERNELᵀ · sums · KERNEL: from 36 vectors to nine. Sums of all parts, `part_step` bytes apart, are added up."""

    def codegen(context, builder, signature, arguments):
        source, step, parts, part_step, target, to_step = arguments[1:]
        one = _Channels(builder, signature.args[0].dtype)
        first = [vector for column in _gathered(one, source, step, PATCH) for vector in column]

        def add(part, totals):
            place = builder.add(source, builder.mul(builder.add(part, LONG(1)), part_step))
            others = [vector for column in _gathered(one, place, step, PATCH) for vector in column]
            return list(starmap(builder.fadd, zip(totals, others, strict=True)))

        sums = one.loop(LONG(0), builder.sub(parts, LONG(1)), first, add)
        columns = [sums[x * PATCH : (x + 1) * PATCH] for x in range(PATCH)]
        _spread(one, one.both_ways(one.by_columns, KERNEL, columns), target, to_step)
        return context.get_dummy_value()

    return types.none(like, *[_ADDRESS] * 6), codegen


def _gathered(one: _Channels, source, step, side: int) -> list[list]:
    """The columns of a square of vectors that stand `step` bytes apart, row by row."""
    b = one.builder

    def at(y, x):
        return one.load_one(b.add(source, b.mul(step, LONG(y * side + x))))

    return [[at(y, x) for y in range(side)] for x in range(side)]


def _spread(one: _Channels, rows: Sequence[Sequence], target, step) -> None:
    b = one.builder
    for k, vector in enumerate(vector for row in rows for vector in row):
        one.store_one(vector, b.add(target, b.mul(step, LONG(k))))


def _product_of(lines: int, vectors: int, across: bool, sums_on: bool):
    """A function for Numba that computes one block of the product of two matrices, and keeps it in registers meanwhile.

    lines, vectors: the lines of the block, and the vectors in each line. across: the first matrix is stored transposed.
    sums_on: the block is added to what stands at its place.
    """

    @intrinsic
    def product(typing, like, first, first_step, second, second_step, target, target_step, length):
        """Writes the matrix product first · second to `target`, or adds it to what is there. All three are addresses.

        length: the terms of each sum. The steps are bytes from one row to the next.
        """

        def codegen(context, builder, signature, arguments):
            first, first_step, second, second_step, target, target_step, length = arguments[1:]
            one = _Channels(builder, signature.args[0].dtype)
            size = LONG(one.bytes.constant // LANES)
            along, down = (size, first_step) if not across else (first_step, size)
            starts = [builder.add(first, builder.mul(LONG(k), down)) for k in range(lines)]
            places = [
                builder.add(builder.add(target, builder.mul(LONG(k), target_step)), LONG(v * one.bytes.constant))
                for k in range(lines)
                for v in range(vectors)
            ]

            def term(i, totals):
                at, row = builder.mul(i, along), builder.add(second, builder.mul(i, second_step))
                these = [one.load_one(builder.add(row, LONG(v * one.bytes.constant))) for v in range(vectors)]
                numbers = [one.broadcast(builder.add(start, at)) for start in starts]
                return [
                    one.fma(number, vector, totals[k * vectors + v])
                    for k, number in enumerate(numbers)
                    for v, vector in enumerate(these)
                ]

            zeros = [one.zero] * (lines * vectors)
            totals = [one.load_one(place) for place in places] if sums_on else zeros
            for total, place in zip(one.loop(LONG(0), length, totals, term), places, strict=True):
                one.store_one(total, place)
            return context.get_dummy_value()

        return types.none(like, *[_ADDRESS] * 7), codegen

    return product


# Blocks that fill the registers: 32 vectors of sixteen float32 with AVX-512, else 16 of eight, of which two make one.
# Each number is one sum in one order, whatever the block.
LINES, VECTORS = (12, 2) if _WIDE else (6, 1)
multiply = _product_of(LINES, VECTORS, across=False, sums_on=False)
multiply_one = _product_of(LINES, 1, across=False, sums_on=False)
SUMS, VECTORS_OF_SUMS = (8, 2) if _WIDE else (4, 1)
accumulate = _product_of(SUMS, VECTORS_OF_SUMS, across=True, sums_on=True)
SUMS_OF_ONE = 16 if _WIDE else 4
accumulate_one = _product_of(SUMS_OF_ONE, 1, across=True, sums_on=True)
