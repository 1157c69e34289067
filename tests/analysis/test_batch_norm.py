import copy

import pytest
import torch
from torch import nn

from sparselt.analysis.batch_norm import reestimate_statistics_


class Twice(nn.Module):
    """Calls one batch norm twice, another once."""

    def __init__(self):
        super().__init__()
        self.convolution, self.shared, self.last = (
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3, momentum=0.3),
        )

    def forward(self, images):
        return self.last(self.shared(self.shared(self.convolution(images)).relu()))


def test_statistics_are_the_mean_over_all_calls_to_the_bit_of_torchs_own():
    torch.manual_seed(0)
    model = Twice()
    batches = [(torch.randn(5, 1, 6, 6),) for _ in range(4)]
    expected = copy.deepcopy(model)
    for layer in (expected.shared, expected.last):
        layer.momentum = None  # torch takes the mean
    for (images,) in batches:
        expected(images)
    reestimate_statistics_(model, batches)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    assert (model.shared.momentum, model.last.momentum) == (0.1, 0.3)
    assert not model.shared._forward_pre_hooks


def test_no_statistic_waits_for_its_count(monkeypatch):
    # With a momentum of None torch reads the count back from its device, and a GPU's queue runs empty.
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("a tensor was read"))
    reestimate_statistics_(Twice(), [(torch.randn(5, 1, 6, 6),)] * 2)
