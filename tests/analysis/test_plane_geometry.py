"""The plane's coordinates against weights placed by hand, and the LCS-set in landscapes whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparselt import Mask, magnitude_prune
from sparselt.analysis import PlaneAxes, evaluate_plane, lcs_set, plane_axes
from sparselt.data import Batch
from sparselt.errors import SettingError

quick = settings(max_examples=40, deadline=None, derandomize=True)

NAMES = ("1.weight", "3.weight")

numbers = st.floats(-3, 3, allow_subnormal=False)
axes = st.builds(PlaneAxes, width=st.floats(0.1, 30), height=st.floats(0.1, 30), foot=numbers)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False))


def three() -> list[dict[str, torch.Tensor]]:
    """w(L), its projection, and some w(L+1) under the projection's mask."""
    solution, following = network(0), network(1)
    mask = magnitude_prune(solution, Mask.ones_like(solution), 0.6)
    projection = {name: tensor * mask[name] for name, tensor in solution.state_dict().items()}
    mask.apply_(following)
    return [solution.state_dict(), projection, following.state_dict()]


def flat(state) -> np.ndarray:
    return np.concatenate([state[name].double().numpy().ravel() for name in NAMES])


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(64, 1, 4, 4, generator=generator)
    return [Batch(images, torch.randint(0, 3, (64,), generator=generator), torch.arange(64))]


def test_axes_are_distances_and_a_projection_stands_below_its_network():
    solution, projection, following = three()
    found = plane_axes(solution, projection, following, NAMES)
    w, p, f = map(flat, (solution, projection, following))
    assert found.width == pytest.approx(np.linalg.norm(f - p)) and found.height == pytest.approx(np.linalg.norm(w - p))
    assert found.foot == 0.0
    assert found.points == ((0.0, found.height), (0.0, 0.0), (found.width, 0.0))


def test_any_three_networks_keep_their_distances():
    states = [network(seed).state_dict() for seed in range(3)]
    places = np.array(plane_axes(*states, NAMES).points)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        distance = np.linalg.norm(flat(states[i]) - flat(states[j]))
        assert np.linalg.norm(places[i] - places[j]) == pytest.approx(distance, rel=1e-6)


def test_losses_on_the_grid_are_those_of_networks_placed_by_orthonormal_axes():
    states = three()
    found = plane_axes(*states, NAMES)
    w, p, f = map(flat, states)
    across = (f - p) / np.linalg.norm(f - p)
    up = w - p - (w - p) @ across * across
    up /= np.linalg.norm(up)
    x, y = found.grid(points=5)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    plane = evaluate_plane(network(2), *states, batches(), found.coefficients(points))
    images, labels = batches()[0][:2]
    for (right, rise), loss in zip(points, plane.losses, strict=True):
        weights = torch.from_numpy(p + right * across + rise * up)
        hidden = F.relu(images.flatten(1).double() @ weights[: 12 * 16].view(12, 16).T)
        expected = F.cross_entropy(hidden @ weights[12 * 16 :].view(3, 12).T, labels)
        assert loss == pytest.approx(float(expected), rel=1e-5)


@quick
@given(axes, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
def test_coordinates_and_coefficients_are_each_other_s_inverse(plane, points):
    there = plane.coordinates(plane.coefficients(points))
    np.testing.assert_allclose(there, points, atol=1e-9 * (1 + plane.width / plane.height + plane.height / plane.width))
    np.testing.assert_allclose(plane.coefficients(plane.points), [(0, 0), (1, 0), (0, 1)], atol=1e-12)


@quick
@given(axes, st.integers(3, 60), st.floats(0.0, 1.0), st.floats(0.5, 4))
def test_a_grid_holds_the_three_networks_and_the_first_stands_on_it(plane, points, extra, stretch):
    x, y = plane.grid(points, 1 / (2 * (points - 2)) + extra, stretch)
    assert len(x) == len(y) == points
    assert plane.foot in x and plane.height in y
    assert np.allclose(np.diff(x), np.diff(x)[0]) and np.allclose(np.diff(y), np.diff(y)[0])
    slack = 1e-9 * (x[-1] - x[0] + y[-1] - y[0])
    for right, rise in plane.points:
        assert x[0] - slack <= right <= x[-1] + slack and y[0] - slack <= rise <= y[-1] + slack


def test_the_vertical_is_drawn_twice_as_long_unless_the_first_network_would_not_fit():
    x, y = PlaneAxes(width=10, height=1).grid()
    assert len(x) == 51 and x[-1] - x[0] == pytest.approx(2 * (y[-1] - y[0]))
    x, y = PlaneAxes(width=1, height=10).grid()
    assert x[-1] - x[0] == pytest.approx(1.5) and y[-1] - y[0] == pytest.approx(15)


@pytest.mark.parametrize("options", [{"points": 2}, {"margin": 0.0}, {"margin": float("nan")}, {"stretch": 0}])
def test_a_grid_that_would_leave_a_network_outside_is_refused(options):
    with pytest.raises(SettingError, match="expected 3 points or more"):
        PlaneAxes(1, 1).grid(**options)


def test_networks_that_span_no_plane_are_refused():
    solution, projection, following = three()
    halfway = {name: (solution[name] + projection[name]) / 2 for name in solution}
    for states, message in (
        ((solution, solution, following), "the first network equals the second"),
        ((solution, projection, projection), "the third network equals the second"),
        ((solution, projection, solution), "on one line"),
        ((solution, projection, halfway), "on one line"),
        ((solution, projection, {n: t * float("nan") for n, t in following.items()}), "not finite"),
        ((solution, projection, {"1.weight": following["1.weight"]}), "'3.weight': the third network lacks it"),
        ((solution, {**projection, "3.weight": torch.zeros(1)}, following), r"second network has it as \(1,\)"),
    ):
        with pytest.raises(SettingError, match=message):
            plane_axes(*states, NAMES)
    with pytest.raises(SettingError, match="no tensor at all"):
        plane_axes(solution, projection, following, ())


def bilinear(errors, column: float, row: float) -> float:
    j, i = min(int(column), errors.shape[1] - 2), min(int(row), errors.shape[0] - 2)
    u, v = column - j, row - i
    low = (1 - u) * errors[i, j] + u * errors[i, j + 1]
    return (1 - v) * low + v * ((1 - u) * errors[i + 1, j] + u * errors[i + 1, j + 1])


GRID = np.arange(9.0)

landscapes = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).random((9, 9)))


@quick
@given(landscapes, st.floats(0, 8), st.floats(0, 8), st.floats(0.5, 1))
def test_every_line_of_the_set_stays_below_and_every_other_point_s_line_does_not(errors, column, row, threshold):
    found = lcs_set(errors, GRID, GRID, (column, row), threshold)
    for i in range(0, 9, 2):
        for j in range(0, 9, 2):
            shares = np.linspace(0, 1, 300)
            worst = max(bilinear(errors, column + s * (j - column), row + s * (i - row)) for s in shares)
            # From the nearest of the 300, at most 0.019 away, the error rises by a slope of at most √2.
            if worst > threshold + 1e-9:
                assert not found[i, j]
            elif worst < threshold - 0.03:
                assert found[i, j]


@quick
@given(landscapes, st.integers(0, 8), st.integers(0, 8), st.floats(0.3, 1))
def test_the_set_is_star_shaped_around_its_network(errors, column, row, threshold):
    found = lcs_set(errors, GRID, GRID, (column, row), threshold)
    for i, j in np.argwhere(found):
        parts = np.gcd(i - row, j - column)
        for part in range(parts):
            assert found[row + part * (i - row) // parts, column + part * (j - column) // parts]
    assert not (found & (errors > threshold)).any() and found[row, column] == (errors[row, column] <= threshold)


@quick
@given(landscapes, st.integers(0, 8), st.integers(0, 8), st.floats(0.3, 1), st.floats(0, 0.5))
def test_a_higher_threshold_never_loses_a_point(errors, column, row, threshold, more):
    low, high = (lcs_set(errors, GRID, GRID, (column, row), t) for t in (threshold, threshold + more))
    assert (high | ~low).all()


def test_what_lies_beyond_a_ring_is_not_in_the_set():
    line = np.linspace(-2, 2, 81)
    x, y = np.meshgrid(line, line)
    radius = np.hypot(x, y)
    errors = np.where(abs(radius - 1) < 0.2, 1.0, 0.0)
    found = lcs_set(errors, line, line, (0.0, 0.0), 0.5)
    assert found[radius < 0.7].all() and not found[radius > 0.85].any()
    open_to_the_right = np.where((x > 0) & (abs(y) <= 0.2), 0.0, errors)
    found = lcs_set(open_to_the_right, line, line, (0.0, 0.0), 0.5)
    assert found[(x > 1.3) & (abs(y) < 0.1)].all()
    # Reached around the corner, but by no straight line.
    assert not found[(x < 0.5) & (radius > 1.3)].any() and (open_to_the_right[(x < 0.5) & (radius > 1.3)] == 0).all()


@pytest.mark.parametrize("threshold", [float("nan"), None, "0.1"])
def test_a_threshold_that_is_no_number_has_no_set(threshold):
    with pytest.raises(SettingError, match=r"threshold is .*expected an error"):
        lcs_set(np.zeros((5, 5)), np.linspace(-1, 1, 5), np.linspace(-1, 1, 5), (0.0, 0.0), threshold)


def test_a_flat_landscape_at_the_threshold_is_in_the_set_entirely():
    for value in (0.1, 1 / 3, 0.0, 7.7):
        assert lcs_set(np.full((7, 5), value), np.arange(5) / 3, np.arange(7) / 7, (0.4, 0.29), value).all()


def test_a_cut_that_is_not_finite_hides_what_is_behind_it():
    for value in (np.nan, np.inf):
        errors = np.zeros((5, 5))
        errors[2, 2] = value
        found = lcs_set(errors, np.arange(5), np.arange(5), (0, 2), 0.5)
        assert found[2].tolist() == [True, True, False, False, False]
        # Along the grid line in front of it, no; through one of the four cells around it, yes.
        assert found[:, :2].all() and found[[0, 4], 2].all() and not found[[0, 4], 3].any()
    assert not lcs_set(np.full((2, 2), np.nan), np.arange(2), np.arange(2), (0, 0), 1.0).any()


def test_columns_are_x_and_rows_are_y():
    errors = np.zeros((2, 3))
    errors[1, 2] = 1
    found = lcs_set(errors, np.array([10.0, 20, 30]), np.array([-1.0, 1]), (10.0, -1.0), 0.5)
    assert found.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 2)), np.arange(3), np.arange(2), (0, 0)), r"errors have shape \(3, 2\); expected"),
        ((np.zeros((2, 3)), np.array([0, 2, 1]), np.arange(2), (0, 0)), "grid's x"),
        ((np.zeros((1, 3)), np.arange(3), np.arange(1), (0, 0)), "grid's y"),
        ((np.zeros((2, 3)), np.array([0, 1, 3]), np.arange(2), (0, 0)), "grid's x .* evenly spaced"),
        ((np.zeros((2, 3)), np.arange(3), np.arange(2), (0, 1.5)), r"origin \(0, 1.5\) is outside"),
        ((np.zeros((2, 3)), np.arange(3), np.arange(2), (np.nan, 1)), "outside the grid"),
    ],
)
def test_grids_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(SettingError, match=message):
        lcs_set(*arguments, 0.5)
