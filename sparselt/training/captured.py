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
from collections.abc import Callable, Iterator, Sequence

import torch

from sparselt.kernels._tables import tables_kept_with
from sparselt.training.step import Branch

_WARM_UP = 3  # steps, as in torch's notes: libraries choose algorithms and allocate workspaces


def on_streams(branches: Sequence[Branch]) -> None:
    """Computes every branch on its own stream. The current stream waits for all of them."""
    device = branches[0].rate.device
    current = torch.cuda.current_stream(device)
    streams = _streams(device, 1 + len(branches))[1:]
    for branch, stream in zip(branches, streams, strict=True):
        stream.wait_stream(current)
        # This holds for the backward pass too: autograd runs each node on the stream of its forward pass.
        with torch.cuda.stream(stream):
            branch.compute()
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
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with tables_kept_with(graph, device), torch.cuda.graph(graph, stream=stream):
        step(branches)
    return graph


@contextlib.contextmanager
def pinned_algorithms() -> Iterator[None]:
    """Chooses deterministic convolution algorithms by shape alone, not by a measurement, and float32 without TF32.

    Otherwise two runs, or a network alone and in a cohort, may use different algorithms, which round differently.
    """
    unchanged = {"enabled": None, "benchmark_limit": None, "fp32_precision": None}
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False, **unchanged):
        yield


def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    # Kept, because torch hands out 32 streams in turn: two streams of a later cohort could be the same.
    known = _known_streams.setdefault(device, [])
    while len(known) < count:
        known.append(torch.cuda.Stream(device))
    return known[:count]


_known_streams: dict[torch.device, list] = {}
