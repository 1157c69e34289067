"""What the CPU's convolution does with a tile: the innermost loops, emitted as LLVM."""

from numba import types
from numba.extending import intrinsic

from .._vectors import LONG, VECTORS, Tiles

_ADDRESS = types.int64


@intrinsic
def gather_tile(typing, like, target, source, offsets, values, starts, rows, step, width, first, mask, sums, a, b):
    """target = Σ values[k]·(tile at source + offsets[k]) over k of a few stretches of the lists.

    like: an array of the dtype of tiles. The others are addresses or numbers. Stretch r < rows is k = starts[r·step] …
    starts[r·step + width]. An address of 0 leaves out its part:
    first: a tile that the sum starts from. mask: a tile; where it is at most 0, the sum becomes 0.
    sums: three vectors, to which the sum, its product with tile `a` (with itself where a = 0) and with tile `b` go.
    """

    def codegen(context, builder, signature, arguments):
        target, source, offsets, values, starts, rows, step, width, first, mask, sums, a, b = arguments[1:]
        tiles = Tiles(builder, signature.args[0].dtype)

        def stretch(r, total):
            at = builder.mul(r, step)

            def add(k, total):
                value = tiles.splat(builder.load(tiles.at(values, tiles.number, k)))
                there = tiles.load(builder.add(source, tiles.words(offsets, k)))
                return [tiles.fma(x, value, t) for x, t in zip(there, total, strict=True)]

            return tiles.loop(tiles.words(starts, at), tiles.words(starts, builder.add(at, width)), total, add)

        def masked(total):
            cut = [builder.fcmp_ordered("<=", x, tiles.zero) for x in tiles.load(mask)]
            return [builder.select(bit, tiles.zero, t) for bit, t in zip(cut, total, strict=True)]

        def summed(total):
            second = builder.add(sums, tiles.bytes)
            tiles.add_to(sums, tiles.total(total))
            other = tiles.unless_zero(a, total, lambda: tiles.load(a))
            tiles.add_to(second, tiles.dot(total, other))

            def third():
                tiles.add_to(builder.add(second, tiles.bytes), tiles.dot(total, tiles.load(b)))
                return []

            tiles.unless_zero(b, [], third)
            return []

        total = tiles.unless_zero(first, [tiles.zero] * VECTORS, lambda: tiles.load(first))
        total = tiles.loop(LONG(0), rows, total, stretch)
        total = tiles.unless_zero(mask, total, lambda: masked(total))
        tiles.store(total, target)
        tiles.unless_zero(sums, [], lambda: summed(total))
        return context.get_dummy_value()

    return types.none(like, *[_ADDRESS] * 13), codegen


@intrinsic
def dot_tile(typing, like, gradient, source, offsets, sums, starts, rows, step, width):
    """sums[k] += (tile at `gradient`)·(tile at source + offsets[k]), a vector for each k of the stretches."""

    def codegen(context, builder, signature, arguments):
        gradient, source, offsets, sums, starts, rows, step, width = arguments[1:]
        tiles = Tiles(builder, signature.args[0].dtype)
        given = tiles.load(gradient)

        def stretch(r, _):
            at = builder.mul(r, step)

            def add(k, _):
                place = tiles.at(sums, tiles.vector, k)
                there = tiles.load(builder.add(source, tiles.words(offsets, k)))
                builder.store(tiles.dot(there, given, builder.load(place, align=4)), place, align=4)
                return []

            return tiles.loop(tiles.words(starts, at), tiles.words(starts, builder.add(at, width)), [], add)

        tiles.loop(LONG(0), rows, [], stretch)
        return context.get_dummy_value()

    return types.none(like, *[_ADDRESS] * 8), codegen
