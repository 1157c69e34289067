"""A masked optimizer's step on the CPU: one pass in Numba, into which the optimizer's rule is inlined.

The mask has a byte for each weight; packed bits cost more than they save here. Threads take blocks of `PAD` weights
from one counter, a few at a time. Tried without gain on two EPYC cores: huge pages for the arenas, one loop over many
blocks, telling the compiler that the arrays do not overlap. Prefetching the start of the next block gained 0 to 5%;
prefetching all of it lost 30%.
"""

import hashlib
import operator
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import carray, types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic, overload
from torch import Tensor

from .._compile import callback, inlined
from .._memory import AS, BYTES, pointer, read, take, write
from .._threads import share
from .arguments import Launch
from .layout import PAD, Layout
from .places import places_of

if TYPE_CHECKING:
    from . import Operation

PARALLEL_FROM = 1 << 16  # weights, 10 µs on one core; torch's threads start within 2 µs when they have just worked
TAKEN = 32  # blocks that a thread takes at a time

# Fields of a job, before the columns of its parameters: `NEXT` is the counter that `share` resets.
NEXT, BLOCKS, PARAMETERS, STATE, STRIDE, MASK, TABLE, STEPS, HYPERPARAMETERS, GROUPS, SHADOW, FLAGS, HEADER = range(13)
FIRST_STEP, REWRITE, LIVE_STATE = 1, 2, 4
ALWAYS, NEVER = -1, -2  # in place of a column: every group has state, or none has
WEIGHTS, GRADIENTS, OFFSETS, SIZES, GROUP, SHADOWED, FIRST_BLOCK, COLUMNS = range(8)  # rows of the columns
LONG, DOUBLE, COUNTS = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int32)


def step(operation: "Operation", launch: Launch) -> None:
    """One step in CPU memory."""
    layout, hyperparameters = launch.layout, launch.hyperparameters
    if not layout.blocks or (launch.found_inf is not None and launch.found_inf.item() != 0):
        return
    arenas = (launch.state, launch.mask, launch.blocks, launch.steps, launch.shadow, hyperparameters)
    job = layout.job
    # A job holds a copy of hyperparameters that are not float64, so it is made anew for them.
    if job is None or hyperparameters.dtype != torch.float64 or not all(map(operator.is_, job.arenas, arenas)):
        job = layout.job = Job(layout, arenas)
    job.addresses[:] = launch.addresses
    rows = job.rows
    if launch.grad_scale is not None:
        rows = rows.copy()
        rows[:, operation.columns._fields.index("sign")] /= launch.grad_scale.item()
        job.words[HYPERPARAMETERS] = rows.ctypes.data
    job.words[FLAGS] = FIRST_STEP * launch.first_step | REWRITE * launch.rewrite | LIVE_STATE * launch.live_state
    job.words[NEXT] = 0
    share(_body(operation, launch.dtype, launch.shadow is not None), job.pointer, layout.weights >= PARALLEL_FROM)
    if launch.grad_scale is not None:
        job.words[HYPERPARAMETERS] = job.rows.ctypes.data


class Job:
    """The data that `_work` reads. It is kept between steps: filling it in takes as long as a small network's step."""

    def __init__(
        self,
        layout: Layout,
        arenas: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor],
    ):
        state, mask, blocks, steps, shadow, hyperparameters = self.arenas = arenas
        count = len(layout.sizes)
        self.rows = hyperparameters.double().numpy()
        self.words = np.zeros(HEADER + COLUMNS * count, dtype=np.int64)
        self.pointer = self.words.ctypes.data
        self.addresses = self.words[HEADER : HEADER + 2 * count]
        self.words[HEADER + 2 * count :] = layout.rows.ravel()
        self.words[BLOCKS:FLAGS] = (
            layout.blocks,
            count,
            state.data_ptr(),
            state.shape[1],
            mask.data_ptr(),
            0 if blocks is None else blocks.data_ptr(),
            0 if steps is None else steps.data_ptr(),
            self.rows.ctypes.data,
            len(self.rows),
            0 if shadow is None else shadow.data_ptr(),
        )


_operations: dict[type, "Operation"] = {}  # by columns: the type by which a compiled function finds its rule


@lru_cache
def _body(operation: "Operation", dtype: torch.dtype, shadows: bool):
    like, wide = AS[dtype], AS[torch.float64 if dtype == torch.float64 else torch.float32]
    number = wide.dtype.type
    names = operation.columns._fields
    kept = names.index(operation.kept_by) if operation.kept_by else ALWAYS if operation.buffers else NEVER
    row = operation.columns._make(number(0) for _ in names)
    nothing = (number(0),) * max(1, operation.buffers)  # Numba has no loops over an empty tuple
    version = _version(operation.rule, operation.prepare, places_of.py_func)
    _operations[operation.columns] = operation
    narrow = AS[torch.bfloat16] if shadows else None
    return callback(lambda job: _work(job, like, wide, narrow, row, nothing, kept, version))


def _version(*functions: Callable | None) -> int:
    """A hash of functions and their files, for the callback to close over: Numba's cache compares such values."""
    text = b""
    for code in (function.__code__ for function in functions if function is not None):
        file = Path(code.co_filename)
        text += code.co_code + repr(code.co_consts).encode() + (file.read_bytes() if file.is_file() else b"")
    return int(hashlib.sha256(text).hexdigest()[:15], 16)


@inlined
def _work(job_pointer, like, wide, narrow, row, nothing, kept, version):
    """The work of one thread: takes blocks until none is left.

    like, wide, narrow: empty arrays of the types of weights, state and copies; narrow is None without copies.
    row: a row of hyperparameters, for its type. nothing: the state of a weight, all zeros. kept: the column that is 0
    for a group without state, or `ALWAYS` or `NEVER`.
    """
    number = wide.dtype.type
    job = carray(job_pointer, HEADER)
    count, flags, stride = job[PARAMETERS], job[FLAGS], job[STRIDE]
    columns = carray(job_pointer, HEADER + COLUMNS * count)[HEADER:].reshape((COLUMNS, count))
    hyperparameters = carray(pointer(job[HYPERPARAMETERS], DOUBLE), (job[GROUPS], len(row)))
    spare = np.empty(PAD + 8, np.uint16), np.empty(2 * PAD, like.dtype)
    while True:
        block = take(job_pointer, TAKEN)
        stop = min(job[BLOCKS], block + TAKEN)
        if block >= stop:
            return
        t = np.searchsorted(columns[FIRST_BLOCK], block, side="right") - 1
        while block < stop:
            while t + 1 < count and columns[FIRST_BLOCK, t + 1] <= block:
                t += 1
            end = stop if t + 1 == count else min(stop, columns[FIRST_BLOCK, t + 1])
            if columns[GRADIENTS, t] == 0:
                block = end
            h = row
            for c in range(len(row)):
                h = tuple_setitem(h, c, number(hyperparameters[columns[GROUP, t], c]))
            keeps = kept == ALWAYS or (kept != NEVER and hyperparameters[columns[GROUP, t], kept] != 0)
            prepared, prepared_for = _prepare(h, 1), 1
            while block < end:
                start = (block - columns[FIRST_BLOCK, t]) * PAD
                size, at = min(PAD, columns[SIZES, t] - start), columns[OFFSETS, t] + start
                weights = carray(pointer(columns[WEIGHTS, t] + start * like.itemsize, like), size)
                live = carray(pointer(job[MASK] + at, BYTES), size)
                alive, place = -1, at
                if job[TABLE] != 0:
                    entry = carray(pointer(job[TABLE] + at // PAD * 16, LONG), 2)
                    alive = entry[0]
                    if flags & LIVE_STATE:
                        place = entry[1]
                state = carray(pointer(job[STATE] + place * wide.itemsize, wide), (len(nothing), stride))
                step = 1 if flags & FIRST_STEP or not keeps else 2
                if job[STEPS] != 0 and keeps:
                    steps = carray(pointer(job[STEPS] + at // PAD * 4, COUNTS), 1)
                    steps[0] += 1
                    step = 1 if flags & FIRST_STEP else steps[0]
                if step != prepared_for:
                    prepared, prepared_for = _prepare(h, step), step
                given = h, nothing, prepared
                gradient, copy = columns[GRADIENTS, t], job[SHADOW] + 2 * at if columns[SHADOWED, t] else 0
                how = state, live, given, alive, step == 1, keeps, flags, spare
                _copied_block(weights, gradient, start, copy, narrow, how)
                block += 1


@inlined
def _copied_block(weights, gradient, start, copy, narrow, how):
    """Updates a block, and its bfloat16 copy if there is one.

    gradient: the address of the parameter's gradient, in which the block begins at `start`. copy: the address of the
    block's copy; 0: it has none.
    """
    if narrow is None:  # Numba decides this when it compiles
        _block(weights, carray(pointer(gradient + start * weights.itemsize, weights), weights.size), how)
    elif copy != 0:
        _block(weights, carray(pointer(gradient + start * narrow.itemsize, narrow), weights.size), how)
        rounded = carray(pointer(copy, narrow), weights.size)
        for i in range(weights.size):
            write(rounded, i, weights[i])
    else:
        _block(weights, carray(pointer(gradient + start * weights.itemsize, weights), weights.size), how)


@inlined
def _block(weights, gradients, how):
    """Updates at most `PAD` weights of one parameter. alive: the number of live ones, or -1 if unknown.

    given: the row of hyperparameters, the state of a weight before its first step, what the rule gets for the step.
    fresh: whether this is the first step. spare: memory for `_compacted`.
    """
    state, live, given, alive, fresh, keeps, flags, spare = how
    size = weights.size
    if alive == 0:
        if flags & REWRITE:
            for i in range(size):
                weights[i] = weights.dtype.type(0)
            if keeps and not flags & LIVE_STATE:
                state[:, :size] = state.dtype.type(0)
        return
    full = alive == size
    if not keeps:
        _without_state(weights, gradients, live, full, given)
    elif full or not flags & LIVE_STATE:
        _with_state(weights, gradients, state, live, full, given, fresh)
    else:
        _compacted(weights, gradients, state, live, given, fresh, spare)


@inlined
def _without_state(weights, gradients, live, full, given):
    h, nothing, prepared = given
    zero = h.sign - h.sign
    for i in range(weights.size):
        weight, _ = _apply(h, read(weights, i), h.sign * read(gradients, i), nothing, prepared)
        stays = full or live[i] != 0  # written inside the call below, Numba would lose the store
        write(weights, i, weight if stays else zero)


@inlined
def _with_state(weights, gradients, state, live, full, given, fresh):
    h, nothing, prepared = given
    zero = h.sign - h.sign
    if fresh:  # the arena may still hold anything
        state[:, : weights.size] = zero
    for i in range(weights.size):
        before = nothing
        for k in range(len(nothing)):
            before = tuple_setitem(before, k, state[k, i])
        weight, after = _apply(h, read(weights, i), h.sign * read(gradients, i), before, prepared)
        after = _alike(after, zero)
        stays = full or live[i] != 0
        for k in range(len(nothing)):
            state[k, i] = after[k] if stays else zero
        write(weights, i, weight if stays else zero)


@inlined
def _compacted(weights, gradients, state, live, given, fresh, spare):
    """Gathers live weights and their gradients beside their state, which has no gaps, and spreads the new weights.

    A branch on the mask would take five times as long with random masks.
    """
    places, memory = spare
    count = places_of(places, live, weights, gradients)
    own = carray(pointer(memory.ctypes.data, weights), count)
    theirs = carray(pointer(memory.ctypes.data + PAD * weights.itemsize, gradients), count)
    for j in range(count):
        own[j], theirs[j] = weights[places[j]], gradients[places[j]]
    _with_state(own, theirs, state, live, True, given, fresh)
    weights[:] = weights.dtype.type(0)
    for j in range(count):
        weights[places[j]] = own[j]


def _apply(h, weight, gradient, state, prepared):
    """Calls the rule of the optimizer whose columns are the type of `h`."""


@overload(_apply)
def _apply_overload(h, weight, gradient, state, prepared):
    operation = _operations[h.instance_class]
    rule = inlined(operation.rule)
    if operation.buffers:
        return lambda h, weight, gradient, state, prepared: rule(h, weight, gradient, state, prepared)
    return lambda h, weight, gradient, state, prepared: (rule(h, weight, gradient, (), prepared)[0], state)


def _prepare(h, step):
    """What the rule gets for this step: what the optimizer prepares, or the step itself."""


@overload(_prepare)
def _prepare_overload(h, step):
    operation = _operations[h.instance_class]
    if operation.prepare is None:
        return lambda h, step: step
    prepare = inlined(operation.prepare)
    return lambda h, step: _alike(prepare(h, step), h.sign)


@intrinsic
def _alike(typing_context, numbers, like):
    """The numbers cast to the type of `like`, because a rule with integers computes in float64."""
    kind = types.UniTuple(like, len(numbers))

    def codegen(context, builder, signature, arguments):
        parts = [(builder.extract_value(arguments[0], k), numbers[k]) for k in range(len(numbers))]
        return context.make_tuple(builder, kind, [context.cast(builder, part, own, like) for part, own in parts])

    return kind(numbers, like), codegen
