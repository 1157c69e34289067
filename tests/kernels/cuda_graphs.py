"""An optimizer's step, eager or captured in a CUDA graph, for tests that compare the two."""

from collections.abc import Callable

import torch


def stepping(optimizer: torch.optim.Optimizer, captured: bool) -> Callable[[], object]:
    """Makes the first step, and returns the function that makes each further one: a graph's replay, or the step."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.synchronize()
    if not captured:
        return optimizer.step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay
