"""Tables from which a Triton kernel reads a list of tensors: their addresses and their blocks."""

import contextlib
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_blocks: dict[tuple, Tensor] = {}
_ROOM = 1 << 20  # bytes for the tables of one capture; those of sixteen ResNet-50 take 62 KB
_ALIGNED = 256  # bytes


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


class _Captured:
    """The tables of one capture: filled once after it, so that a replay copies nothing from the host.

    Their memory is allocated before the capture. Memory that is allocated during a capture may also serve an earlier
    kernel of the graph, which would overwrite a table in every replay.
    """

    def __init__(self, device: torch.device):
        self._room = torch.empty(_ROOM, dtype=torch.uint8, device=device)
        self._taken = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def table(self, host: Tensor) -> Tensor | None:
        """Memory that `fill` will fill with `host`; None if there is no room left."""
        start, stop = self._taken, self._taken + host.nbytes
        if stop > _ROOM:
            return None
        self._taken = -(-stop // _ALIGNED) * _ALIGNED
        part = self._room[start:stop].view(host.dtype).view(host.shape)
        self._waiting.append((part, host))
        return part

    def fill(self) -> None:
        for part, host in self._waiting:
            part.copy_(host)
        self._waiting.clear()


_captures: list[_Captured] = []  # the last one is that of the present capture
_copied: list[Tensor] = []  # pinned tables that replays copy again from the host; they must stay alive


@contextlib.contextmanager
def tables_kept_with(graph: object, device: torch.device) -> Iterator[None]:
    """Tables that are sent to `device` in the block, which captures `graph`, are written once, at its end.

    They live as long as the graph. In a capture outside such a block, each replay copies them again.
    """
    captured = _Captured(device)
    _captures.append(captured)
    weakref.finalize(graph, lambda tables: None, captured)
    try:
        yield
    finally:
        _captures.pop()
    captured.fill()


def finish(device: torch.device) -> None:
    """Waits for the copies on this stream, so that kernels on other streams find them done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies the array to the device through pinned memory, without waiting. The array must not change afterwards."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    captured = capturing(device)
    if captured and _captures and (table := _captures[-1].table(host)) is not None:
        return table
    if device.type != "cuda":
        return host
    host = host.pin_memory()
    if captured:
        _copied.append(host)
    return host.to(device, non_blocking=True)


def aligned(addresses: list[int]) -> bool:
    """Whether every address allows accesses of 16 bytes."""
    return all(address % 16 == 0 for address in addresses)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
