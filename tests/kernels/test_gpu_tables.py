"""What kernels send to a GPU, and where: held without one."""

import gc
import weakref

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparselt.kernels import _tables
from sparselt.kernels.interpolate import gram_matrix, project_to_hull


class Devices(TorchDispatchMode):
    """Notes every operator that takes tensors of the CPU and of a GPU, or makes one from the other."""

    def __init__(self):
        super().__init__()
        self.mixed = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        found = torch.utils._pytree.tree_leaves((arguments, options, result))
        kinds = {t.device.type for t in found if isinstance(t, torch.Tensor)}
        if len(kinds) > 1:
            self.mixed.append(str(function))
        return result


class Operators(TorchDispatchMode):
    """Notes the names of all operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(str(function))
        return function(*arguments, **(options or {}))


def test_projecting_to_the_hull_of_a_plane_copies_nothing_from_the_host():
    with FakeTensorMode(allow_non_fake_inputs=True), Devices() as devices:
        ends = [[torch.empty(3, 5, device="cuda"), torch.empty(7, device="cuda")] for _ in range(3)]
        found = project_to_hull(torch.empty(9, 2, device="cuda"), gram_matrix(ends))
    assert found.device.type == "cuda" and devices.mixed == []


class Graph:
    pass


def test_a_capture_writes_its_tables_once_at_its_end_and_copies_nothing(monkeypatch):
    """On CPU tensors, which take the same way once a capture is under way."""
    monkeypatch.setattr(_tables, "capturing", lambda device: True)
    cpu, numbers = torch.device("cpu"), np.arange(5)
    outside = _tables.send(numbers, cpu)
    with _tables.tables_kept_with(Graph(), cpu):
        with Operators() as operators:
            first, second = _tables.send(numbers, cpu), _tables.send(np.full((2, 3), 7, np.int32), cpu)
        assert not [name for name in operators.names if "copy" in name]
        first.fill_(-1)
        assert first.data_ptr() % 16 == second.data_ptr() % 16 == 0
    assert first.tolist() == numbers.tolist() == outside.tolist()
    assert second.tolist() == [[7] * 3] * 2 and second.dtype == torch.int32


def test_tables_without_room_in_a_capture_are_sent_as_ever(monkeypatch):
    monkeypatch.setattr(_tables, "capturing", lambda device: True)
    large = np.arange(_tables._ROOM // 8)
    with _tables.tables_kept_with(Graph(), torch.device("cpu")):
        fits, large_one = _tables.send(large, torch.device("cpu")), _tables.send(large[:1], torch.device("cpu"))
        fits.fill_(-1)
        assert large_one.tolist() == [0]
    assert fits[-1] == large[-1]


def test_the_tables_of_a_capture_live_as_long_as_its_graph(monkeypatch):
    monkeypatch.setattr(_tables, "capturing", lambda device: True)
    graph = Graph()
    with _tables.tables_kept_with(graph, torch.device("cpu")):
        kept = weakref.ref(_tables._captures[-1])
    gc.collect()
    assert kept() is not None
    del graph
    gc.collect()
    assert kept() is None
