import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparselt.analysis import Path, between, error_barrier, evaluate_path, instability, path_positions
from sparselt.data import Batch
from sparselt.errors import SettingError


class OneWeight(nn.Module):
    """Two outputs whose sign follows `f(weight)`: a one-dimensional landscape whose error is known at every point."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight]]))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, images):
        margin = images.flatten(1) - self.weight.abs()
        return torch.cat([torch.zeros_like(margin), margin], 1)


def batches(count=100):
    """Samples 0.005, 0.015, …, all of class 1: a network of weight w errs on those below |w|, a fraction of |w|."""
    images = ((torch.arange(count) + 0.5) / count).reshape(-1, 1, 1, 1)
    labels = torch.ones(count, dtype=torch.long)
    return [Batch(images[i : i + 30], labels[i : i + 30], torch.arange(count)[i : i + 30]) for i in range(0, count, 30)]


def test_errors_along_a_path_in_a_known_landscape():
    first, second = OneWeight(-0.8), OneWeight(0.4)
    path = evaluate_path(OneWeight(0.0), first.state_dict(), second.state_dict(), batches(), path_positions(7))
    assert path.errors == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.2, 0.4], abs=0.011)
    assert path.barrier == 0.0
    back = evaluate_path(OneWeight(0.0), OneWeight(0.0).state_dict(), second.state_dict(), batches(), path_positions(3))
    assert back.barrier == pytest.approx(0.0, abs=0.011)


def test_barrier_of_a_known_bump():
    positions = path_positions(11)
    bump = [0.1 + 0.2 * gamma + 0.5 * math.sin(math.pi * gamma) for gamma in positions]
    assert error_barrier(positions, bump) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
def test_barrier_is_the_smallest_lift_that_covers_the_path(errors):
    positions = path_positions(len(errors))
    barrier = error_barrier(positions, errors)
    excess = [e - ((1 - g) * errors[0] + g * errors[-1]) for g, e in zip(positions, errors, strict=True)]
    assert barrier >= 0 and all(x <= barrier + 1e-12 for x in excess)
    assert barrier == pytest.approx(max(0.0, *excess), abs=1e-12)
    assert error_barrier(positions, errors[::-1]) == pytest.approx(barrier, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
def test_instability_is_measured_from_the_mean_of_the_ends(errors):
    positions = path_positions(len(errors))
    found = instability(positions, errors)
    assert found == max(errors) - (errors[0] + errors[-1]) / 2
    assert found >= abs(errors[0] - errors[-1]) / 2 - 1e-12


def test_a_path_has_both_barriers_of_the_error_and_one_of_the_loss():
    path = Path((0.0, 0.5, 1.0), (0.1, 0.4, 0.3), (1.0, 3.0, 2.0))
    assert (path.barrier, path.instability) == pytest.approx((0.2, 0.2)) and path.loss_barrier == pytest.approx(1.5)
    diverged = Path((0.0, 0.5, 1.0), (0.1, 0.9, 0.3), (1.0, math.nan, 2.0))
    assert math.isnan(diverged.loss_barrier) and diverged.instability == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("positions", "errors"),
    [([0, 1], [0.1]), ([0, 0.5], [0, 0]), ([0.1, 1], [0, 0]), ([0, 0.7, 0.6, 1], [0] * 4), ([0], [0])],
)
def test_what_is_no_path_is_refused(positions, errors):
    for measure in (error_barrier, instability):
        with pytest.raises(SettingError):
            measure(positions, errors)


@pytest.mark.parametrize("points", [2, 0, -1])
def test_a_path_needs_a_point_between_its_ends(points):
    with pytest.raises(SettingError, match="at least 3"):
        path_positions(points)


@pytest.mark.parametrize("errors", [[0, math.nan, 0], [math.nan, 0.5, 0], [0, 0.9, math.inf]])
def test_a_path_with_a_value_that_is_not_finite_has_no_barrier_to_state(errors):
    assert math.isnan(error_barrier([0, 0.5, 1], errors)) and math.isnan(instability([0, 0.5, 1], errors))


def test_batches_that_cannot_be_read_again_and_an_unknown_precision_are_refused(monkeypatch):
    model = nn.Linear(2, 2)
    state, batch = model.state_dict(), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert len(evaluate_path(model, state, state, iter([batch]), [0, 0.5, 1]).errors) == 3  # one pass
    monkeypatch.setattr(between, "CHUNK_BYTES", 1)
    with pytest.raises(SettingError, match="read again"):
        evaluate_path(model, state, state, iter([batch]), [0, 0.5, 1])
    with pytest.raises(SettingError, match="precision is 'f8'"):
        evaluate_path(model, state, state, [batch], [0, 1], precision="f8")


def test_positions_may_be_a_tensor_and_are_kept_as_numbers():
    ends = OneWeight(-0.8).state_dict(), OneWeight(0.4).state_dict()
    path = evaluate_path(OneWeight(0.0), *ends, batches(), torch.linspace(0, 1, 3))
    assert path == evaluate_path(OneWeight(0.0), *ends, batches(), (0, 0.5, 1))
    assert path.positions == (0.0, 0.5, 1.0) and {type(p) for p in path.positions} == {float}
