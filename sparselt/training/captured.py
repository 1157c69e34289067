"""The step of a cohort as one CUDA graph: each network on its own stream, then one optimizer launch for all.

A graph holds addresses and launches, but no values: each replay reads weights, mask bits, momentum, learning rates,
orders, seeds and clocks from the device. So it is captured once for a shape (architecture, batch size, options of the
optimizer, number of networks) and serves every epoch, level, mask and replicate. The host only sends the order of each
epoch. A graph cannot replay steps that change their shape or need the host: progressive resizing, weight averages,
images that do not fit the device. Those train in the eager loop (`loop.train`).

Written after torch's notes on CUDA graphs (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). It has
not run on a GPU yet; tests/training/test_captured_on_gpu.py says what must hold there.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sparselt.kernels._tables import tables_kept_with
from sparselt.training.step import Branch

_WARM_UP = 3  # steps, as in torch's notes: libraries choose algorithms and allocate workspaces


def on_streams(branches: Sequence[Branch]) -> None:
    """Computes every branch on its own stream. The current stream waits for all of them.

    It does so even if a branch fails, because CUDA cannot end a recording while a stream is not waited for.
    """
    device = branches[0].rate.device
    current = torch.cuda.current_stream(device)
    streams, begun = _streams(device, 1 + len(branches))[1:], 0
    try:
        for branch, stream in zip(branches, streams, strict=True):
            stream.wait_stream(current)
            begun += 1
            # This holds for the backward pass too: autograd runs each node on the stream of its forward pass.
            with torch.cuda.stream(stream):
                branch.compute()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # CUDA has given up the recording; the first error says why
            _wait_for(current, streams[:begun])
        raise
    _wait_for(current, streams)


def _wait_for(current: torch.cuda.Stream, streams: Sequence[torch.cuda.Stream]) -> None:
    for stream in streams:
        current.wait_stream(stream)


def capture(step: Callable[[Sequence[Branch]], None], branches: Sequence[Branch]) -> torch.cuda.CUDAGraph:
    """Warms up and captures `step(branches)`, which must begin by setting the gradients to None.

    Then gradients are allocated in the graph's memory and stay there. The warm-up makes real steps, so load every
    network's start afterwards. It uses the streams of the capture: libraries keep workspaces for each stream, and
    autograd the nodes that accumulate gradients.
    """
    device = branches[0].rate.device
    stream = _streams(device, 1 + len(branches))[0]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step(branches)
    gc.collect()  # a network that refers to itself keeps its memory until then
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with tables_kept_with(graph, device), torch.cuda.stream(stream):
        record(graph, functools.partial(step, branches), device)
    return graph


def record(graph: torch.cuda.CUDAGraph, call: Callable[[], object], device: torch.device) -> None:
    """Records what `call` launches. After a failure the process can go on, and the first error is raised.

    `torch.cuda.graph` (torch 2.11) would raise the error of the recording's end in place of an `OutOfMemoryError`, and
    would leave its stream current. The allocator would take the recording for unfinished, and free nothing any more.
    """
    pool = torch.cuda.graph_pool_handle()
    graph.capture_begin(pool=pool)
    try:
        call()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            _end(graph, pool, device)
        raise
    _end(graph, pool, device)


def _end(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    try:
        graph.capture_end()
    except RuntimeError:
        with contextlib.suppress(RuntimeError):  # the graph had told the allocator before it failed
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
        raise


@contextlib.contextmanager
def pinned_algorithms() -> Iterator[None]:
    """Chooses deterministic convolution algorithms by shape alone, not by a measurement, and float32 without TF32.

    Otherwise two runs, or a network alone and in a cohort, may use different algorithms, which round differently.
    """
    before = _algorithms()
    _choose(_PINNED)
    try:
        yield
    finally:
        _choose(before)


class _Algorithms(NamedTuple):
    """Settings of cuDNN. Whether it may use TF32 stands in two places: a flag, and a precision for each operation.

    allow_tf32: the flag; None if torch refuses to read it, because the two places disagree.
    """

    benchmark: bool
    deterministic: bool
    allow_tf32: bool | None
    convolutions: str
    rnns: str


_PINNED = _Algorithms(benchmark=False, deterministic=True, allow_tf32=False, convolutions="ieee", rnns="ieee")


def _algorithms() -> _Algorithms:
    cudnn: Any = torch.backends.cudnn
    try:
        allow_tf32 = cudnn.allow_tf32
    except RuntimeError:
        allow_tf32 = None
    precisions = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    return _Algorithms(cudnn.benchmark, cudnn.deterministic, allow_tf32, *precisions)


def _choose(chosen: _Algorithms) -> None:
    cudnn: Any = torch.backends.cudnn
    with torch.backends.__allow_nonbracketed_mutation():  # `disable_global_flags` forbids it otherwise
        cudnn.benchmark, cudnn.deterministic = chosen.benchmark, chosen.deterministic
        if chosen.allow_tf32 is not None:
            cudnn.allow_tf32 = chosen.allow_tf32  # sets both precisions too
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = chosen.convolutions, chosen.rnns


def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    # Kept, because torch hands out 32 streams in turn: two streams of a later cohort could be the same.
    known = _known_streams.setdefault(device, [])
    while len(known) < count:
        known.append(torch.cuda.Stream(device))
    return known[:count]


_known_streams: dict[torch.device, list] = {}
