"""Tables from which a Triton kernel reads a list of tensors: their addresses and their blocks."""

import contextlib
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_blocks: dict[tuple, Tensor] = {}
# Each replay of a graph copies its tables again from the host, so they must stay alive. The last list is that of the
# present capture; without `tables_kept_with` they are kept for ever.
_captured: list[list[Tensor]] = [[]]


def blocks_of(device: torch.device, sizes: list[int], block: int) -> Tensor:
    """int32 [programs, 2]: for each block of `block` elements its tensor, and its place within that tensor."""
    key = (device, block, *sizes)
    found = _blocks.get(key)
    if found is None:
        counts = [-(-size // block) for size in sizes]
        within = np.concatenate([np.arange(count) for count in counts])
        found = send(np.stack([np.repeat(np.arange(len(sizes)), counts), within], axis=1).astype(np.int32), device)
        if not capturing(device):
            finish(device)
            _blocks[key] = found
    return found


@contextlib.contextmanager
def tables_kept_with(graph: object) -> Iterator[None]:
    """Tables that are sent in the block, which captures `graph`, stay alive as long as it does."""
    _captured.append([])
    try:
        yield
    finally:
        weakref.finalize(graph, _captured.pop().clear)


def finish(device: torch.device) -> None:
    """Waits for the copies on this stream, so that kernels on other streams find them done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies the array to the device through pinned memory, without waiting."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return host
    host = host.pin_memory()
    if capturing(device):
        _captured[-1].append(host)
    return host.to(device, non_blocking=True)


def aligned(addresses: list[int]) -> bool:
    """Whether every address allows accesses of 16 bytes."""
    return all(address % 16 == 0 for address in addresses)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured. It will replay every copy made during the capture."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
