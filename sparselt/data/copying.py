"""Batches on their way to a GPU: through pinned memory, on a stream of their own, one batch ahead of the network.

It has not run on a GPU yet; tests/data/test_copying.py runs it with a device whose copies are late.
"""

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

_SLOTS = 3  # one is being filled, one is full, and one is being copied


class CudaCopies:
    """The calls of a CUDA device that copying takes."""

    def __init__(self, device: torch.device):
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._stream = torch.cuda.Stream(self.device)

    def enter_thread(self) -> None:
        """Called first in a thread that calls `pinned_like`: a new thread would otherwise use the first device."""
        torch.cuda.set_device(self.device)

    def pinned_like(self, tensor: Tensor) -> Tensor:
        """Memory for such a tensor from which the device copies while other work goes on."""
        return torch.empty_like(tensor, pin_memory=True)

    def start(self, tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
        """Starts to copy; gives the tensors on the device, and the event after which they are there."""
        with torch.cuda.stream(self._stream):
            there = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
            return there, self._stream.record_event()

    def receive(self, tensors: list[Tensor], done: Any) -> list[Tensor]:
        """The tensors of `start`, for the current stream, which waits for them; the host does not."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for tensor in tensors:
            tensor.record_stream(stream)
        return tensors


def on_device(batches: Generator[list[Tensor]], copies: CudaCopies, reuses_memory: bool) -> Generator[list[Tensor]]:
    """Each batch on the device; the next one is copied while the network works on this one.

    Args:
        batches: of tensors on the CPU. Closed with this generator.
        reuses_memory: `batches` overwrites a batch when the next one is asked for. It is then read by a thread of its
            own, which copies every batch into pinned memory; the calling thread only starts copies to the device.
    """
    ring = PinnedRing(batches, copies) if reuses_memory else None
    before: tuple[list[Tensor], Any] | None = None
    with contextlib.closing(batches if ring is None else ring.batches()) as source:
        for tensors in source:
            following = copies.start(tensors)
            if ring is not None:
                ring.give_back(following[1])
            if before is not None:
                yield copies.receive(*before)
            before = following
        if before is not None:
            yield copies.receive(*before)


class PinnedRing:
    """Reads batches in a thread of its own into a few buffers of pinned memory.

    The first batch must be the largest. An error of the thread is raised by `batches`.
    """

    def __init__(self, source: Generator[list[Tensor]], copies: CudaCopies):
        self._source, self._copies = source, copies
        self._full: queue.SimpleQueue[_Slot | BaseException | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        for _ in range(_SLOTS):
            self._free.put(_Slot())
        self._given: _Slot | None = None
        self._closed = threading.Event()

    def batches(self) -> Generator[list[Tensor]]:
        """The batches in pinned memory. Call `give_back` after each. Closing the generator ends the thread."""
        thread = threading.Thread(target=self._fill, name="sparselt-pinned", daemon=True)
        thread.start()
        try:
            while (found := self._full.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                self._given = found
                yield found.batch
        finally:
            self._closed.set()
            self._free.put(None)
            thread.join()

    def give_back(self, copied: Any) -> None:
        """The memory of the last batch may be overwritten once the event `copied` has happened."""
        assert self._given is not None, "no batch has been given"
        self._given.copied = copied
        self._free.put(self._given)
        self._given = None

    def _fill(self) -> None:
        try:
            self._copies.enter_thread()
            with contextlib.closing(self._source) as source:
                for batch in source:
                    slot = self._free.get()
                    if slot is None or self._closed.is_set():
                        return
                    slot.fill(batch, self._copies)
                    self._full.put(slot)
            self._full.put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            self._full.put(error)


class _Slot:
    """Pinned memory for one batch."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self.batch: list[Tensor] = []
        self.copied: Any = None  # the event after which the device has the batch

    def fill(self, batch: list[Tensor], copies: CudaCopies) -> None:
        if self.copied is not None:
            self.copied.synchronize()
        if not self._buffers:
            self._buffers = [copies.pinned_like(tensor) for tensor in batch]
        self.batch = [buffer[: len(tensor)] for buffer, tensor in zip(self._buffers, batch, strict=True)]
        for target, tensor in zip(self.batch, batch, strict=True):
            target.copy_(tensor)
