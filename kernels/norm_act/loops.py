"""The loops of norm_act on a CPU, in LLVM: over tiles of 64 numbers, whose lanes have factors and sums of their own."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._vectors import BLOCK, LONG, VECTORS, Tiles

SCALE, TERM, MIDDLE, SLOPE, SHIFT = range(5)
"""The rows of the factors, a number for each lane of a period. Sums are taken around `MIDDLE`."""


def _numbers(tiles: Tiles, address) -> list:
    """The vectors of a tile of what is computed."""
    return [tiles.builder.load(tiles.at(address, tiles.vector, j), align=4) for j in range(VECTORS)]


def _keep(tiles: Tiles, vectors: list, address) -> None:
    """Writes vectors of what is computed."""
    for j, vector in enumerate(vectors):
        tiles.builder.store(vector, tiles.at(address, tiles.vector, j), align=4)


def _bytes_of_tile(signature) -> ir.Constant:
    return LONG(BLOCK * signature.args[0].dtype.bitwidth // 8)


def _row(tiles: Tiles, address, row: int, step):
    """The address of a row of the factors."""
    return tiles.builder.add(address, tiles.builder.mul(step, LONG(row)))


@intrinsic
def sum_tiles(typing, like, number, x, step, count, factors, row, sums):
    """Adds up `count` tiles, `step` bytes apart, lane by lane: Σ(x - middle) and Σ(x - middle)².

    factors: of the first row; the others are `row` bytes apart.
    """

    def codegen(context, builder, signature, arguments):
        x, step, count, factors, row, sums = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        middle, zeros = _numbers(tiles, _row(tiles, factors, MIDDLE, row)), [tiles.zero] * (2 * VECTORS)

        def body(i, carried):
            numbers = tiles.load(builder.add(x, builder.mul(i, step)))
            apart = [builder.fsub(a, b) for a, b in zip(numbers, middle, strict=True)]
            total = [builder.fadd(s, a) for s, a in zip(carried[:VECTORS], apart, strict=True)]
            return total + [tiles.fma(a, a, q) for q, a in zip(carried[VECTORS:], apart, strict=True)]

        _keep(tiles, tiles.loop(LONG(0), count, zeros, body), sums)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 6), codegen


@intrinsic
def apply_tiles(typing, like, number, x, residual, y, count, factors, row, relu):
    """y = scale·x + term (+ residual, 0: none), and ReLU unless `relu` is 0, of `count` tiles with the same factors."""

    def codegen(context, builder, signature, arguments):
        x, residual, y, count, factors, row, relu = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        scale, term = _numbers(tiles, factors), _numbers(tiles, _row(tiles, factors, TERM, row))
        size = _bytes_of_tile(signature)

        def body(i, carried):
            at = builder.mul(i, size)
            out = [tiles.fma(a, b, c) for a, b, c in zip(tiles.load(builder.add(x, at)), scale, term, strict=True)]

            def add():
                added = tiles.load(builder.add(residual, at))
                return [builder.fadd(a, b) for a, b in zip(out, added, strict=True)]

            out = tiles.unless_zero(residual, out, add)
            # NaN is not below 0, and stays.
            clipped = [builder.select(builder.fcmp_ordered("<", a, tiles.zero), tiles.zero, a) for a in out]
            given = builder.icmp_signed("!=", relu, LONG(0))
            tiles.store([builder.select(given, a, b) for a, b in zip(clipped, out, strict=True)], builder.add(y, at))
            return []

        tiles.loop(LONG(0), count, [], body)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 7), codegen


def _without_dead(tiles: Tiles, d: list, signs: list) -> list:
    """d where the sign is positive, 0 elsewhere."""
    b = tiles.builder
    return [b.select(b.fcmp_ordered(">", s, tiles.zero), v, tiles.zero) for v, s in zip(d, signs, strict=True)]


@intrinsic
def sum_back_tiles(typing, like, number, x, d, out, masked, step, count, factors, row, relu, sums):
    """Adds up `count` tiles, `step` bytes apart, lane by lane: Σd and Σd·(x - middle). Where ReLU gave 0, so is d.

    out: whose sign says so; 0: that of scale·x + term does, unless `relu` is 0. masked: gets d, unless it is 0.
    factors: as in `sum_tiles`.
    """

    def codegen(context, builder, signature, arguments):
        x, d, out, masked, step, count, factors, row, relu, sums = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        scale, term = _numbers(tiles, factors), _numbers(tiles, _row(tiles, factors, TERM, row))
        middle, zeros = _numbers(tiles, _row(tiles, factors, MIDDLE, row)), [tiles.zero] * (2 * VECTORS)
        alone = builder.select(builder.icmp_signed("!=", out, LONG(0)), LONG(0), relu)

        def body(i, carried):
            at = builder.mul(i, step)
            numbers, gradient = tiles.load(builder.add(x, at)), tiles.load(builder.add(d, at))

            def by_output():
                kept = _without_dead(tiles, gradient, tiles.load(builder.add(out, at)))
                tiles.store(kept, builder.add(masked, at))
                return kept

            def by_input():
                signs = [tiles.fma(a, b, c) for a, b, c in zip(numbers, scale, term, strict=True)]
                return _without_dead(tiles, gradient, signs)

            kept = tiles.unless_zero(out, gradient, by_output)
            kept = tiles.unless_zero(alone, kept, by_input)
            apart = [builder.fsub(a, b) for a, b in zip(numbers, middle, strict=True)]
            total = [builder.fadd(s, a) for s, a in zip(carried[:VECTORS], kept, strict=True)]
            return total + [tiles.fma(a, b, q) for q, a, b in zip(carried[VECTORS:], kept, apart, strict=True)]

        _keep(tiles, tiles.loop(LONG(0), count, zeros, body), sums)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 10), codegen


@intrinsic
def apply_back_tiles(typing, like, number, x, d, y, count, factors, row, relu):
    """y = scale·d + slope·(x - mean) + shift of `count` tiles with the same factors.

    relu: unless it is 0, d counts as 0 where scale·x + term is not positive.
    """

    def codegen(context, builder, signature, arguments):
        x, d, y, count, factors, row, relu = arguments[2:]
        tiles = Tiles(builder, signature.args[0].dtype)
        rows = [_numbers(tiles, _row(tiles, factors, k, row)) for k in range(5)]
        size = _bytes_of_tile(signature)

        def body(i, carried):
            at = builder.mul(i, size)
            numbers, gradient = tiles.load(builder.add(x, at)), tiles.load(builder.add(d, at))

            def by_input():
                signs = [tiles.fma(a, b, c) for a, b, c in zip(numbers, rows[SCALE], rows[TERM], strict=True)]
                return _without_dead(tiles, gradient, signs)

            kept = tiles.unless_zero(relu, gradient, by_input)
            apart = [builder.fsub(a, b) for a, b in zip(numbers, rows[MIDDLE], strict=True)]
            out = [tiles.fma(a, b, c) for a, b, c in zip(apart, rows[SLOPE], rows[SHIFT], strict=True)]
            tiles.store(
                [tiles.fma(a, b, c) for a, b, c in zip(kept, rows[SCALE], out, strict=True)], builder.add(y, at)
            )
            return []

        tiles.loop(LONG(0), count, [], body)
        return context.get_dummy_value()

    return types.none(like, number, *[types.int64] * 7), codegen
