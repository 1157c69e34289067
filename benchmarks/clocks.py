"""How long one call takes: by the host's clock, by device events, or as a replayed CUDA graph."""

from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

import torch

from sparselt.training.captured import record

CLOCKS = ("host", "events", "graph")

_SLEEP_CYCLES = 8_000_000  # 4 ms at 2 GHz: the launches of a call took the host 1.1 ms at most
_FLUSHED = 256 * 2**20  # bytes: several times the level-2 cache of any GPU so far


def seconds_of(call: Callable[[], object], clock: str, device: str) -> float:
    """The time of one call, without work that was queued on the device before.

    host: from the call until its work is done, including launches on a GPU. events: between two events on the device,
    after its level-2 cache was overwritten. Before the first event the device sleeps, so that the host has queued the
    whole call by then, and its own time does not count. graph: `call` is a replay (see `captured`), timed like events.
    """
    if device == "cpu":
        start = perf_counter()
        call()
        return perf_counter() - start
    torch.cuda.synchronize()
    if clock == "host":
        start = perf_counter()
        call()
        torch.cuda.synchronize()
        return perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _spare_memory(device).zero_()
    torch.cuda._sleep(_SLEEP_CYCLES)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """A replay of `call` as one CUDA graph. RuntimeError if it cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        record(graph, call, stream.device)
    return graph.replay


@lru_cache(maxsize=1)
def _spare_memory(device: str) -> torch.Tensor:
    return torch.empty(_FLUSHED, dtype=torch.uint8, device=device)
