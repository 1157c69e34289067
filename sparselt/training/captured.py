"""The step of a cohort as one CUDA graph: a branch a network on a stream of its own, then one optimizer launch for all.

A graph holds addresses and launches, no values: weights, mask bits, momentum, learning rates, orders, seeds and clocks
are read from the device at each replay. So it is captured once a shape (architecture, batch size, options of the
optimizer, number of networks) and serves every epoch, level, mask and replicate; the host only sends an order an epoch.
What it cannot know is a step that changes its shape or its host code: progressive resizing, weight averages, images
that do not fit the device. Those train in the eager loop (`loop.train`).

Written after torch's notes on CUDA graphs (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). It has
not run on a GPU yet; tests/training/test_captured_on_gpu.py says what must hold there.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from sparselt.training.step import Branch

_WARM_UP = 3  # steps, as torch's notes have it: libraries choose their algorithms and get their workspaces


def on_streams(branches: Sequence[Branch]) -> None:
    """Computes every branch on a stream of its own; the current stream goes on when all are done."""
    device = branches[0].rate.device
    current = torch.cuda.current_stream(device)
    streams = _streams(device, 1 + len(branches))[1:]
    for branch, stream in zip(branches, streams, strict=True):
        stream.wait_stream(current)
        # Backward too: autograd runs each node on the stream of its forward pass, and gradients are born there.
        with torch.cuda.stream(stream):
            branch.compute()
    for stream in streams:
        current.wait_stream(stream)


def capture(step: Callable[[Sequence[Branch]], None], branches: Sequence[Branch]) -> torch.cuda.CUDAGraph:
    """Warms up and captures `step(branches)`, which must begin by setting the gradients to None.

    So gradients are allocated in the graph's own memory and stay there. The warm-up makes real steps: give every
    network its start afterwards. It runs on the streams of the capture, where libraries keep their workspaces and
    autograd the nodes that accumulate gradients.
    """
    device = branches[0].rate.device
    stream = _streams(device, 1 + len(branches))[0]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step(branches)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step(branches)
    return graph


@contextlib.contextmanager
def pinned_algorithms() -> Iterator[None]:
    """Convolutions are computed by deterministic algorithms that the shapes alone decide, not a measurement.

    Otherwise two runs, or a network alone and in a cohort, may take different ones, whose results differ in rounding.
    """
    unchanged = {"enabled": None, "benchmark_limit": None, "allow_tf32": None, "fp32_precision": None}
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, **unchanged):
        yield


def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    # Kept: torch hands out 32 in turn, and a later cohort's would coincide.
    known = _known_streams.setdefault(device, [])
    while len(known) < count:
        known.append(torch.cuda.Stream(device))
    return known[:count]


_known_streams: dict[torch.device, list] = {}
