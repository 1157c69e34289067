"""Paths and planes through networks with other buffers than batch norm's, and with layers and weights of two names."""

import pytest
import torch
from torch import nn

from sparselt.analysis import evaluate_path, evaluate_plane, reestimate_statistics_, side_by_side
from sparselt.data import Batch
from sparselt.kernels.interpolate import gram_matrix, project_to_hull
from sparselt.training.cpu import cpu_threads
from sparselt.training.loop import evaluate


def batches(seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(n, 1, 6, 6, generator=generator) for n in (20, 20, 7)]
    return [Batch(i, torch.randint(0, 3, (len(i),), generator=generator), torch.arange(len(i))) for i in images]


class Scaled(nn.Module):
    """Buffers that are not batch norm's beside some that are."""

    def __init__(self, scale: float):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.InstanceNorm2d(1, track_running_stats=True), nn.Linear(36, 3)
        self.norm.running_mean.fill_(scale)
        self.batch_norm = nn.BatchNorm1d(36)
        self.register_buffer("scale", torch.full((3,), scale))
        self.head.weight.data.normal_()

    def forward(self, images):
        return self.head(self.batch_norm(self.norm(images).flatten(1))) * self.scale


@pytest.mark.parametrize("buffers", ["reestimate", "per_batch"])
def test_where_batch_norms_take_statistics_other_buffers_are_interpolated(buffers):
    ends = [Scaled(scale).state_dict() for scale in (1.0, 3.0)]
    options = {"buffers": buffers, "training_batches": batches(9)}
    path = evaluate_path(Scaled(0.0), *ends, batches(8), (0, 0.5, 1), **options)
    alone = [
        evaluate_path(Scaled(0.0), *[Scaled(scale).state_dict()] * 2, batches(8), (0,), **options).losses[0]
        for scale in (1.0, 2.0, 3.0)
    ]
    assert path.losses == tuple(alone) and len(set(alone)) == 3


class TwoNames(nn.Module):
    """A batch norm registered under two names."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.again = self.norm
        self.head.weight.data.normal_()

    def forward(self, images):
        return self.head(self.again(self.conv(images)).relu().mean((2, 3)))


@pytest.mark.parametrize("folded", [False, True])
def test_statistics_of_a_norm_with_two_names_are_reestimated(folded):
    ends = [TwoNames(seed).state_dict() for seed in (0, 1)]
    model = TwoNames(1)
    reestimate_statistics_(model, batches(9))
    options = {"buffers": "reestimate", "training_batches": batches(9), "folded": folded}
    path = evaluate_path(TwoNames(2), *ends, batches(8), (0.5, 1), **options)
    assert path.losses[1] == pytest.approx(evaluate(model, batches(8))[1], rel=1e-5)


def test_a_network_that_is_a_batch_norm_has_its_statistics_reestimated():
    images = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) + 2
    model, data = nn.BatchNorm1d(3), [(images, torch.arange(20) % 3)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = evaluate_path(model, state, state, data, (0,), buffers="reestimate", training_batches=data)
    reestimate_statistics_(model, data)
    assert path.losses[0] == pytest.approx(evaluate(model, data)[1], rel=1e-6)


def test_a_shared_weight_counts_once_in_the_distance_of_a_plane():
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3))
        model[2].weight = model[1].weight
        model[3].weight.data.normal_()
        return model

    ends = [tied(seed).state_dict() for seed in range(3)]
    names = [name for name, _ in tied(0).named_parameters()]
    points = torch.tensor([[-0.7, 0.45], [0.9, 0.9]])
    hull = project_to_hull(points, gram_matrix([[end[name].double() for name in names] for end in ends]))
    found = evaluate_plane(tied(0), *ends, batches(8), points, prunable=[])
    inside = evaluate_plane(tied(0), *ends, batches(8), hull, prunable=[])
    assert found.losses == pytest.approx(inside.losses, rel=1e-6)


def test_batches_are_not_cut_where_a_norm_takes_the_statistics_of_its_batch(monkeypatch):
    monkeypatch.setattr(side_by_side, "PIECE_BYTES", 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    model.append(nn.Linear(64, 3))
    path = evaluate_path(model, model.state_dict(), model.state_dict(), batches(8), (0,))
    assert path.losses[0] == pytest.approx(evaluate(model, batches(8))[1], rel=1e-6)


def test_each_thread_has_a_piece_that_fits_its_caches():
    images = torch.zeros(1000, 3, 32, 32)
    for threads, precision, expected in ((1, "float32", 64), (1, "bfloat16", 128), (2, "float32", 128)):
        with cpu_threads(threads):
            assert side_by_side._piece(images, precision) == expected
    assert side_by_side._piece(torch.zeros(2, 3, 224, 224), "float32") == 8
    assert side_by_side._piece(images[:0], "float32") >= 8
