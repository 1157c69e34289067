"""What kernels send to a GPU, and where: held without one."""

import gc
import weakref

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


def test_projecting_to_the_hull_of_a_plane_copies_nothing_from_the_host():
    with FakeTensorMode(allow_non_fake_inputs=True), Devices() as devices:
        ends = [[torch.empty(3, 5, device="cuda"), torch.empty(7, device="cuda")] for _ in range(3)]
        found = project_to_hull(torch.empty(9, 2, device="cuda"), gram_matrix(ends))
    assert found.device.type == "cuda" and devices.mixed == []


def test_the_tables_of_a_capture_live_as_long_as_its_graph(monkeypatch):
    monkeypatch.setattr(_tables, "capturing", lambda device: True)

    class Graph:
        pass

    graph, table = Graph(), torch.zeros(3)
    kept = weakref.ref(table)
    with _tables.tables_kept_with(graph):
        _tables._captured[-1].append(table)
    del table
    gc.collect()
    assert kept() is not None
    del graph
    gc.collect()
    assert kept() is None
