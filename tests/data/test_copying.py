"""The way of batches to a GPU, rehearsed on the CPU: the device's calls are replaced by copies that happen late."""

import threading
import time
from itertools import islice

import pytest
import torch

from sparselt.data import CenterCrop, RandomResizedCrop, StreamingEvalLoader, StreamingTrainLoader, streaming
from sparselt.data.copying import _SLOTS, on_device
from sparselt.errors import DataError


class LateCopies:
    """A device that reads the memory of a copy as late as it may: when somebody waits for it."""

    def __init__(self, device=None):
        self.pinned, self.started, self.entered = [], [], []

    def enter_thread(self):
        self.entered.append(threading.get_ident())

    def pinned_like(self, tensor):
        self.pinned.append((threading.get_ident(), memory := torch.empty_like(tensor)))
        return memory

    def start(self, tensors):
        self.started.append((threading.get_ident(), tensors))
        done = Copy(tensors)
        return done.there, done

    def receive(self, tensors, done):
        time.sleep(0.01)  # time for the other thread to overwrite what it may
        done.synchronize()
        return tensors


class Copy:
    """One copy, and the event of its end."""

    def __init__(self, tensors):
        self._from, self.there = tensors, [torch.empty_like(tensor) for tensor in tensors]
        self._lock, self._happened = threading.Lock(), False

    def synchronize(self):
        with self._lock:
            if not self._happened:
                for target, tensor in zip(self.there, self._from, strict=True):
                    target.copy_(tensor)
            self._happened = True


def numbered(count, read_by, sizes=lambda number: 4):
    """Batches in one memory, which is overwritten by each."""
    memory = [torch.empty(4, 3, dtype=torch.int64), torch.empty(4, dtype=torch.int64)]
    try:
        for number in range(count):
            read_by.append(threading.get_ident())
            for tensor in memory:
                tensor.fill_(number)
            yield [tensor[: sizes(number)] for tensor in memory]
    finally:
        read_by.append("closed")


def loading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "sparselt-pinned"]


def test_batches_arrive_whole_although_their_memory_and_the_pinned_one_are_used_again():
    copies, read_by = LateCopies(), []
    arrived = list(on_device(numbered(12, read_by), copies, reuses_memory=True))
    assert [[tensor.unique().tolist() for tensor in batch] for batch in arrived] == [[[n], [n]] for n in range(12)]
    assert len(copies.pinned) == 2 * _SLOTS


def test_reading_and_copying_into_pinned_memory_stay_off_the_calling_thread():
    copies, read_by = LateCopies(), []
    list(on_device(numbered(5, read_by), copies, reuses_memory=True))
    (loading,) = set(copies.entered)
    assert read_by == [loading] * 5 + ["closed"] and loading != threading.get_ident()
    assert {thread for thread, _ in copies.pinned} == {loading}
    pinned = {memory.data_ptr() for _, memory in copies.pinned}
    for thread, tensors in copies.started:
        assert thread == threading.get_ident() and {tensor.data_ptr() for tensor in tensors} <= pinned


def test_the_next_batch_is_copied_before_this_one_is_used():
    copies = LateCopies()
    for number, _ in enumerate(on_device(numbered(6, []), copies, reuses_memory=True)):
        assert len(copies.started) == min(number + 2, 6)


def test_a_smaller_last_batch_has_its_size():
    batches = list(on_device(numbered(4, [], lambda n: 4 if n < 3 else 1), LateCopies(), reuses_memory=True))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 1] and batches[3][1].tolist() == [3]


def test_batches_with_memory_of_their_own_are_copied_from_there():
    copies = LateCopies()
    own = [[torch.full((2,), number)] for number in range(4)]
    assert [batch[0].tolist() for batch in on_device((b for b in own), copies, False)] == [[n, n] for n in range(4)]
    assert not copies.pinned and not copies.entered


def test_an_error_of_the_reader_reaches_the_caller():
    def broken():
        yield from numbered(2, [])
        raise DataError("sample 7 of the beton cannot be decoded")

    with pytest.raises(DataError, match="sample 7"):
        list(on_device(broken(), LateCopies(), reuses_memory=True))
    assert not loading_threads()


def test_no_batch_at_all_is_no_error():
    assert not list(on_device(numbered(0, []), LateCopies(), reuses_memory=True))


@pytest.mark.parametrize("taken", [1, 3])
def test_leaving_early_ends_the_thread_and_closes_the_reader(taken):
    read_by: list = []
    batches = on_device(numbered(50, read_by), LateCopies(), reuses_memory=True)
    assert len(list(islice(batches, taken))) == taken
    batches.close()
    assert not loading_threads() and read_by[-1] == "closed" and len(read_by) < 12


@pytest.fixture
def late(monkeypatch):
    made = []

    def make(device):
        made.append(LateCopies(device))
        return made[-1]

    monkeypatch.setattr(streaming, "CudaCopies", make)
    return made


def test_a_loader_for_a_gpu_gives_the_bytes_of_one_for_the_cpu(textures, late):
    options = {"batch_size": 10, "order_seed": 1, "augmentation_seed": 2, "transform": RandomResizedCrop(40)}
    loaders = [StreamingTrainLoader(textures, **options, device=device, reader="ffcv") for device in ("cpu", "cuda")]
    for epoch, start in ((0, 0), (2, 3)):
        expected, found = (list(loader.epoch(epoch, start)) for loader in loaders)
        assert len(found) == len(expected) == 6 - start
        for one, other in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            assert one.images.stride() == other.images.stride()
    evaluations = [
        StreamingEvalLoader(textures, CenterCrop(40), 8, device, reader="ffcv") for device in ("cpu", "cuda")
    ]
    expected, found = map(list, evaluations)
    assert [len(batch.labels) for batch in found] == [8, 8, 8, 6]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(late) == 2  # one for each loader that is for the GPU


def test_a_training_that_leaves_its_epoch_early_ends_both_threads(textures, late):
    options = {"batch_size": 4, "order_seed": 1, "augmentation_seed": 2, "transform": RandomResizedCrop(40)}
    batches = StreamingTrainLoader(textures, **options, device="cuda", reader="ffcv").epoch(0)
    next(batches)
    assert loading_threads()
    batches.close()
    assert not loading_threads()
    assert not [thread for thread in threading.enumerate() if type(thread).__name__ == "Worker"]
