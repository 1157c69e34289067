"""What happens when the recording of a CUDA graph fails. Stand-ins take the place of streams, graphs and allocator."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sparselt.training import captured, cohort

POOL = (0, 7)


class Stream:
    def __init__(self, name, log):
        self.name, self._log = name, log

    def wait_stream(self, other):
        self._log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA whose graphs record what is done to them; `fails` names the calls that raise a RuntimeError."""
    found = SimpleNamespace(log=[], fails=set())

    def noted(name):
        def call(*arguments, **options):
            found.log.append(name)
            if name in found.fails:
                raise RuntimeError(f"CUDA error in {name}")

        return call

    class Graph:
        capture_begin, capture_end = (staticmethod(noted(name)) for name in ("begin", "end"))

    @contextlib.contextmanager
    def entered(stream):
        found.log.append(f"enter {stream.name}")
        try:
            yield
        finally:
            found.log.append(f"leave {stream.name}")

    streams = [Stream(f"s{k}", found.log) for k in range(3)]
    main = Stream("main", found.log)
    monkeypatch.setattr(captured, "_streams", lambda device, count: streams[:count])
    monkeypatch.setattr(captured, "tables_kept_with", lambda graph, device: contextlib.nullcontext())
    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: POOL,
        "current_stream": lambda device: main,
        "stream": entered,
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", noted("allocator: end"), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", noted("allocator: release"), raising=False)
    return found


class Branch:
    """A branch that computes in the three steps of the warm-up and fails in the recording, if there is an `error`."""

    rate = torch.zeros(())

    def __init__(self, error=None):
        self._left, self._error = 3, error

    def compute(self):
        self._left -= 1
        if self._left < 0 and self._error is not None:
            raise self._error


def captured_or_none(*branches):
    return cohort._captured_or_none(captured.on_streams, branches)


@pytest.mark.parametrize("fails", [set(), {"end"}], ids=["ended", "not ended"])
def test_memory_that_does_not_suffice_is_called_so_and_the_allocator_is_free_again(cuda, fails):
    cuda.fails = fails
    branches = [Branch(), Branch(torch.OutOfMemoryError("CUDA out of memory"))]
    with pytest.raises(torch.OutOfMemoryError):
        captured_or_none(*branches)
    recorded = cuda.log[cuda.log.index("begin") :]
    # Both streams are joined before the recording ends.
    joined = ["main waits for s1", "main waits for s2"]
    assert [entry for entry in recorded if entry in (*joined, "end")] == [*joined, "end"]
    assert ("allocator: end" in recorded and "allocator: release" in recorded) == bool(fails)


def test_a_recording_that_cannot_be_ended_runs_eagerly_and_frees_the_allocator(cuda, capsys):
    cuda.fails = {"end"}
    assert captured_or_none(Branch()) is None
    assert "CUDA cannot record the training step as a graph" in capsys.readouterr().err
    assert cuda.log[-4:] == ["end", "allocator: end", "allocator: release", "leave s0"]


def test_a_graph_that_is_recorded_is_not_taken_from_its_pool(cuda):
    assert captured_or_none(Branch(), Branch()) is not None
    assert "allocator: end" not in cuda.log and cuda.log[-1] == "leave s0"
