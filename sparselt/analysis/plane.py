"""The plane through three networks: coordinates, a grid over it, and a network's LCS-set on that grid.

Paul et al. 2022, Figs. 3, 7 and 8, appendix C: the solution w(L), its projection m(L+1) ⊙ w(L), the solution w(L+1).
"""

import math
import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels.interpolate import gram_matrix

GRID_POINTS = 51  # a side (appendix C)
VERTICAL_STRETCH = 2.0  # how many times as long a unit of y is drawn as one of x (appendix C)

_NAMES = ("first", "second", "third")
_UNEVEN = 1e-6  # of a cell: how far the cells of an even grid may differ
_ROUNDING = 1e-12  # of an interpolated error, against one that is exactly the threshold


@dataclass(frozen=True)
class PlaneAxes:
    """Orthonormal coordinates (x, y) of the plane through three networks; the unit is the L2 distance of `plane_axes`.

    The second network, the projection, is the origin; x runs along the line through it and the third, w(L+1). Both lie
    in the axial subspace of m(L+1), which meets the plane in that line (the papers' dashed line). y points to the
    first, w(L). A projection is the nearest point of the subspace, so w(L) stands exactly above the origin.

    Args:
        width: distance of the third network from the second; it stands at (width, 0).
        height: distance of the first network from the x axis; it stands at (foot, height).
        foot: 0 where the second network is a projection of the first.
    """

    width: float
    height: float
    foot: float = 0.0

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """(x, y) of the first, second and third network."""
        return (self.foot, self.height), (0.0, 0.0), (self.width, 0.0)

    def coefficients(self, points: np.ndarray) -> np.ndarray:
        """The (s, t) that `evaluate_plane` takes of points (x, y): float64 [..., 2] both."""
        x, y = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        rise = y / self.height
        third = (x - self.foot * rise) / self.width
        return np.stack([1 - rise - third, third], axis=-1)

    def coordinates(self, coefficients: np.ndarray) -> np.ndarray:
        """The (x, y) of points (s, t): float64 [..., 2] both."""
        second, third = np.moveaxis(np.asarray(coefficients, dtype=np.float64), -1, 0)
        rise = 1 - second - third
        return np.stack([self.foot * rise + self.width * third, self.height * rise], axis=-1)

    def grid(
        self, points: int = GRID_POINTS, margin: float = 0.25, stretch: float = VERTICAL_STRETCH
    ) -> tuple[np.ndarray, np.ndarray]:
        """The evenly spaced x [points] and y [points] of a grid around the networks; the first is on a grid point.

        In a square picture a unit of y is `stretch` times as long as one of x, so that the second and the third network
        always stand at the same places. If the first would not fit, y spans as much as it needs. On each side the grid
        goes beyond the networks by `margin` times their extent. The paper says no more than "fix the positions"
        and "scale the orthogonal direction by 2 times"; the margin is ours.

        Raises:
            SettingError: a margin that is smaller than half a cell of the grid, fewer than 3 points.
        """
        if points < 3 or not margin * 2 * (points - 2) >= 1 - 1e-9 or not stretch > 0:
            raise SettingError(
                f"a grid of {points} points a side, margin {margin}, stretch {stretch}; expected 3 points or more, a "
                "margin of 1 / (2 (points - 2)) or more, so that no network is left outside, and a stretch above 0"
            )
        left, right = min(0.0, self.foot), max(self.width, self.foot)
        wide = (right - left) * (1 + 2 * margin)
        high = max(wide / stretch, self.height * (1 + 2 * margin))
        return (
            _through(self.foot, (left + right) / 2, wide, points),
            _through(self.height, self.height / 2, high, points),
        )


def plane_axes(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], third: Mapping[str, Tensor], names: Collection[str]
) -> PlaneAxes:
    """The axes of the plane through w(L), its projection m(L+1) ⊙ w(L), and w(L+1).

    Args:
        first, second, third: their state dicts, in the order in which `evaluate_plane` takes them.
        names: the tensors over which distances are taken, in float64. All parameters give the distance in which
            `evaluate_plane` projects points outside the triangle; the prunable ones alone give the papers' space of
            masks. Only the width differs, because a projection changes nothing but prunable weights.

    Raises:
        SettingError: networks that span no plane: two of them equal, all three on a line, or weights not finite; a name
            that one of them lacks, no name at all.
    """
    ends, names = (first, second, third), list(names)
    for name in names:
        for which, end in zip(_NAMES, ends, strict=True):
            if name not in end or end[name].shape != first[name].shape:
                found = f"has it as {tuple(end[name].shape)}" if name in end else "lacks it"
                raise SettingError(f"distances over {name!r}: the {which} network {found}; give networks of one kind")
    if not names:
        raise SettingError("distances over no tensor at all; give the names of the parameters")
    # From the second network, not the first: then the right angle of a projection is exact.
    products = torch.zeros(2, 2, dtype=torch.float64)
    for name in names:
        products += gram_matrix([[end[name].double()] for end in (second, first, third)]).cpu()
    (rise, along), (_, width) = products.tolist()
    if not (math.isfinite(rise) and math.isfinite(width)):
        raise SettingError("the plane's networks have weights that are not finite; did a training diverge?")
    if rise == 0:
        raise SettingError("the first network equals the second: a projection that prunes nothing spans no plane")
    if width == 0:
        raise SettingError("the third network equals the second: they span no plane with the first")
    height = rise - along**2 / width
    if height <= 1e-10 * rise:
        raise SettingError("the three networks lie on one line, and span no plane")
    return PlaneAxes(width=math.sqrt(width), height=math.sqrt(height), foot=along / math.sqrt(width))


def lcs_set(
    errors: np.ndarray, x: np.ndarray, y: np.ndarray, origin: tuple[float, float], threshold: float
) -> np.ndarray:
    """Which grid points are in the linearly connected sublevel set of the network at `origin` (Paul et al., Def. 2.1).

    A point w' is in the set if the error on the straight line from the network to w', both ends included, is nowhere
    above `threshold` = E(w) + ε. This is the test of the paper's adaptive pruning (section 2.2); it makes the set
    star-shaped. Def. 2.1 is weaker: it asks for E(w') ≤ E(w) + ε and for no barrier on the line. A barrier (Def. A.1)
    is measured from the straight line between the two errors, so that on the way the error could rise up to ε above the
    threshold. Between grid points the error is bilinear in each cell, and its maximum on the line is exact.

    Args:
        errors: [len(y), len(x)], the error at each grid point. A line that meets one that is not finite is cut there.
        x, y: increasing, evenly spaced coordinates of the grid's columns and rows, as of `PlaneAxes.grid`.
        origin: (x, y) of the network, inside the grid; on a grid point its error is that point's.
        threshold: in the unit of the errors.

    Returns:
        bool [len(y), len(x)].

    Raises:
        SettingError: errors of another shape, a grid that does not increase evenly, an origin outside it, a threshold
            that is not a number.
    """
    if not isinstance(threshold, numbers.Real) or math.isnan(threshold):
        raise SettingError(f"threshold is {threshold!r}; expected an error, in the unit of the errors")
    errors, x, y = (np.asarray(values, dtype=np.float64) for values in (errors, x, y))
    _check_grid(errors, x, y, origin)
    # In cells: a grid point is at whole numbers.
    start = np.array([np.interp(origin[0], x, np.arange(len(x))), np.interp(origin[1], y, np.arange(len(y)))])
    rows, columns = np.indices(errors.shape)
    step = np.stack([columns.ravel(), rows.ravel()], axis=1) - start
    cuts = _crossings(start, step, errors.shape)
    shares = np.stack([cuts[:, :-1], (cuts[:, :-1] + cuts[:, 1:]) / 2, cuts[:, 1:]])
    points = start + shares[..., None] * step[:, None]
    cell = np.clip(np.floor(points[1]), 0, [len(x) - 2, len(y) - 2])
    worst = _maximum(*(_bilinear(errors, cell, points[place]) for place in range(3))).max(axis=1)
    return (worst <= threshold + _ROUNDING * max(1.0, abs(threshold))).reshape(errors.shape)


def _through(place: float, centre: float, extent: float, points: int) -> np.ndarray:
    """Evenly spaced numbers over about `extent` around `centre`, `place` exactly one of them."""
    step = extent / (points - 1)
    before = round((place - (centre - extent / 2)) / step)
    return place + (np.arange(points) - before) * step


def _check_grid(errors: np.ndarray, x: np.ndarray, y: np.ndarray, origin: tuple[float, float]) -> None:
    for name, line in (("x", x), ("y", y)):
        if line.ndim != 1 or len(line) < 2 or not (np.diff(line) > 0).all():
            raise SettingError(f"the grid's {name} is {line!r}; expected at least two increasing numbers")
        if np.ptp(np.diff(line)) > _UNEVEN * np.diff(line).mean():
            raise SettingError(f"the grid's {name} is {line!r}; expected evenly spaced numbers, as of PlaneAxes.grid")
    if errors.shape != (len(y), len(x)):
        raise SettingError(f"errors have shape {errors.shape}; expected (len(y), len(x)) = {(len(y), len(x))}")
    if not (x[0] <= origin[0] <= x[-1] and y[0] <= origin[1] <= y[-1]):
        raise SettingError(f"the origin {tuple(origin)} is outside the grid, x {x[0]} to {x[-1]}, y {y[0]} to {y[-1]}")


def _crossings(start: np.ndarray, step: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where each line start + share · step meets a grid line: increasing shares from 0 to 1, [lines, n]."""
    shares = []
    for axis, count in ((0, shape[1]), (1, shape[0])):
        away = step[:, axis, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shares.append((np.arange(count) - start[axis]) / away)
    found = np.concatenate([*shares, np.ones((len(step), 1)), np.zeros((len(step), 1))], axis=1)
    return np.sort(np.clip(np.nan_to_num(found, nan=0.0), 0, 1), axis=1)


def _bilinear(errors: np.ndarray, cell: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The error at points [..., (x, y)] of the cells whose lower corners are `cell`."""
    column, row = np.moveaxis(cell.astype(np.int64), -1, 0)
    right, up = np.moveaxis(np.clip(points - cell, 0, 1), -1, 0)
    right, up = (np.where(share < _ROUNDING, 0, np.where(share > 1 - _ROUNDING, 1, share)) for share in (right, up))
    total = np.zeros(right.shape)
    for above, across, share in (
        (0, 0, (1 - right) * (1 - up)),
        (0, 1, right * (1 - up)),
        (1, 0, (1 - right) * up),
        (1, 1, right * up),
    ):
        # A corner of share 0 must not count, even if its error is NaN.
        counted = share > 0
        total += np.where(counted, share, 0) * np.where(counted, errors[row + above, column + across], 0)
    return total


def _maximum(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The maximum, between first and last, of the parabola through three equally spaced values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend, slope = 2 * (first - 2 * middle + last), 4 * middle - 3 * first - last
        peak = np.clip(-slope / (2 * bend), 0, 1)
        top = np.where(bend < 0, first + slope * peak + bend * peak**2, first)
    return np.maximum(np.maximum(np.maximum(first, middle), last), top)
