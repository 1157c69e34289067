"""Lines and planes through trained networks: errors on them, error barriers, heat maps of all pairs.

Paul et al. 2022: paths and barriers in section 2.1 and Def. A.1, heat maps in Figs. 2 and 6 (right), planes in Figs.
3, 7 and 8 and appendix C.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.analysis.batch_norm import Buffers
from sparselt.analysis.between import Conditions, Prunable, check_state, evaluate_between
from sparselt.errors import SettingError


@dataclass(frozen=True)
class Path:
    """Test error (fraction) and loss (nats) at each position of a line: 0 is the first network, 1 the second.

    buffers: where the batch-norm statistics came from, see `evaluate_path`.
    """

    positions: tuple[float, ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    buffers: Buffers = "interpolate"

    @property
    def barrier(self) -> float:
        """The error barrier, see `error_barrier`."""
        return error_barrier(self.positions, self.errors)

    @property
    def loss_barrier(self) -> float:
        """The barrier of the loss, in nats."""
        return error_barrier(self.positions, self.losses)

    @property
    def instability(self) -> float:
        """The error's instability, see `instability`."""
        return instability(self.positions, self.errors)


@dataclass(frozen=True)
class HeatMap:
    """The paths between all pairs of networks, by their numbers (i, j) with i < j, and the networks' own errors."""

    errors: tuple[float, ...]
    paths: Mapping[tuple[int, int], Path]

    @property
    def max_error(self) -> list[list[float]]:
        """The largest error between i and j, symmetric, as in the papers' heat maps. Diagonal: the networks' errors."""
        return self._matrix(lambda path: max(path.errors), self.errors)

    @property
    def barrier(self) -> list[list[float]]:
        """The error barrier between i and j, symmetric."""
        return self._matrix(lambda path: path.barrier, [0.0] * len(self.errors))

    @property
    def instability(self) -> list[list[float]]:
        """`instability` between i and j, symmetric."""
        return self._matrix(lambda path: path.instability, [0.0] * len(self.errors))

    def _matrix(self, of: Callable[[Path], float], diagonal: Sequence[float]) -> list[list[float]]:
        numbers = range(len(self.errors))
        values = {pair: of(path) for pair, path in self.paths.items()}
        return [[diagonal[i] if i == j else values[min(i, j), max(i, j)] for j in numbers] for i in numbers]


@dataclass(frozen=True)
class Plane:
    """Test error (fraction) and loss (nats) at points (s, t): first + s · (second − first) + t · (third − first).

    buffers: where the batch-norm statistics came from, see `evaluate_plane`.
    """

    coefficients: tuple[tuple[float, float], ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    buffers: Buffers


def error_barrier(positions: Sequence[float], errors: Sequence[float]) -> float:
    """The smallest ε ≥ 0 with E(γ) ≤ (1 − γ) E(0) + γ E(1) + ε at every position γ (Paul et al. 2022, Def. A.1).

    Args:
        positions: increasing, from 0 to 1.
        errors: the error at each position, in any unit; the barrier has the same. The barrier is NaN if one is not
            finite.

    Raises:
        SettingError: lists of different length, or positions that do not begin at 0, end at 1 and increase.
    """
    _check(positions, errors)
    if not all(map(math.isfinite, errors)):
        return math.nan
    straight = [(1 - gamma) * errors[0] + gamma * errors[-1] for gamma in positions]
    return max(0.0, *(error - line for error, line in zip(errors[1:-1], straight[1:-1], strict=True)), 0.0)


def instability(positions: Sequence[float], errors: Sequence[float]) -> float:
    """The largest error on the path minus the mean of the errors of its ends (Frankle et al. 2020, section 2).

    If the error is linear along the path, it is half the difference between the ends, while the error barrier is zero.
    The paper calls a network stable below 2%, over 30 points. Arguments and errors as for `error_barrier`.
    """
    _check(positions, errors)
    if not all(map(math.isfinite, errors)):
        return math.nan
    return max(errors) - (errors[0] + errors[-1]) / 2


def path_positions(points: int) -> tuple[float, ...]:
    """`points` evenly spaced positions from 0 to 1, both included; 11 gives the papers' 0, 0.1, …, 1.

    Raises:
        SettingError: fewer than 3.
    """
    if points < 3:
        raise SettingError(f"a path needs at least 3 points, its two ends and one between; got {points}")
    return tuple(index / (points - 1) for index in range(points))


def evaluate_path(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    batches: Iterable,
    positions: Iterable[float] | Tensor,
    *,
    prunable: Prunable = None,
    buffers: Buffers = "interpolate",
    training_batches: Iterable | None = None,
    precision: str = "float32",
    folded: bool = True,
    on_point: Callable[[int], None] = lambda done: None,
) -> Path:
    """Error and loss, in eval mode, of the networks (1 − position) · first + position · second.

    All parameters are interpolated; the ends are exact. Outside [0, 1] only prunable parameters extrapolate and the
    others stay at the nearer end (Paul et al. 2022, appendix C). Outputs that are NaN count as errors with a loss of
    NaN: the loss, not the error, shows that a network has diverged.

    Args:
        model: a network of the architecture, left as it is.
        first, second: state dicts of the two ends, on one device.
        batches: the evaluation batches, each (images, labels, …); read once for as many positions as fit a gigabyte.
        positions: where to evaluate, numbers or a tensor of them; see `path_positions`.
        prunable: the parameters that extrapolate, by name or in pairs that begin with a name; default:
            `sparselt.prunable_parameters`.
        buffers: where batch-norm statistics come from, see `sparselt.analysis.batch_norm.Buffers`. With `per_batch`
            the result depends on the batch size.
        training_batches: for `reestimate`; read as often as `batches`.
        precision: `float32`, or `bfloat16` autocast: faster, and it may flip single errors.
        folded: fold batch norms with fixed statistics into convolutions, and cut batches into pieces that fit the
            caches (not where batch norm takes the statistics of each batch). Outputs of float32 then agree to about
            1e-5 of their size with those of `sparselt.training.loop.evaluate`; with folded=False to the bit. A network
            that mixes the samples of a batch in any way but batch norm needs folded=False and float32, because bfloat16
            is always cut into pieces.
        on_point: called with the number of positions done, as it rises.

    Raises:
        SettingError: state dicts that do not fit the model or each other, an unknown choice of buffers, `reestimate`
            without batches, or a prunable name that is not a parameter; no position, or one that is not finite.
    """
    positions = tuple(map(float, positions))
    if not positions:
        raise SettingError("positions are empty; expected one or more, such as those of path_positions(11)")
    spans = [((first, second), torch.tensor(positions, dtype=torch.float64))]
    how = Conditions(prunable, buffers, training_batches, precision, folded, on_point)
    errors, losses = evaluate_between(model, spans, batches, how)
    return Path(positions, errors, losses, buffers)


def pairwise_max_error(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable,
    positions: Sequence[float],
    *,
    prunable: Prunable = None,
    buffers: Buffers = "interpolate",
    training_batches: Iterable | None = None,
    precision: str = "float32",
    folded: bool = True,
    on_point: Callable[[int], None] = lambda done: None,
) -> HeatMap:
    """Error and loss on the lines between all pairs of networks; each network itself is evaluated once.

    Args:
        states: state dicts of two networks or more.
        positions: increasing, from 0 to 1; see `path_positions`.
        Everything else as for `evaluate_path`. With the buffers of one end (`second`), the networks themselves are
            still evaluated with their own.

    Raises:
        SettingError: as for `evaluate_path`; fewer than two networks, positions that do not increase from 0 to 1.
    """
    if len(states) < 2:
        raise SettingError(f"a heat map of {len(states)} networks has no pair; give two or more")
    check_positions(positions)
    for number, state in enumerate(states):
        check_state(f"network {number}", state, model.state_dict(), states[0])
    numbers = range(len(states))
    ends = torch.zeros(1, dtype=torch.float64)
    inner = torch.tensor(positions[1:-1], dtype=torch.float64)
    pairs = list(itertools.combinations(numbers, 2))
    spans = [((state, state), ends) for state in states] + [((states[i], states[j]), inner) for i, j in pairs]
    how = Conditions(prunable, buffers, training_batches, precision, folded, on_point)
    errors, losses = evaluate_between(model, spans, batches, how)
    paths = {}
    for number, (i, j) in enumerate(pairs):
        place = slice(start := len(states) + number * len(inner), start + len(inner))
        paths[i, j] = Path(
            tuple(positions),
            (errors[i], *errors[place], errors[j]),
            (losses[i], *losses[place], losses[j]),
            buffers,
        )
    return HeatMap(errors[: len(states)], paths)


def evaluate_plane(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    third: Mapping[str, Tensor],
    batches: Iterable,
    coefficients: Tensor | np.ndarray | Sequence[tuple[float, float]],
    *,
    prunable: Prunable = None,
    buffers: Buffers = "interpolate",
    training_batches: Iterable | None = None,
    precision: str = "float32",
    folded: bool = True,
    on_point: Callable[[int], None] = lambda done: None,
) -> Plane:
    """Error and loss, in eval mode, at points of the plane through three networks.

    Inside their triangle all parameters are interpolated. Outside it only prunable parameters extrapolate; the others
    take the point of the triangle that is nearest in the distance between weights. A plane of 51 x 51 points through
    ResNet-8 on the 500 digits takes 12 to 20 seconds of one CPU core.

    Args:
        coefficients: [K, 2] numbers, the points (s, t) of `Plane`; (0, 0), (1, 0) and (0, 1) are the networks.
        buffers: as for `evaluate_path`, and `third`; interpolated ones are projected like parameters not prunable.
        Everything else as for `evaluate_path`.

    Raises:
        SettingError: as for `evaluate_path`; coefficients of another shape.
    """
    points = torch.as_tensor(coefficients, dtype=torch.float64)
    if points.dim() != 2 or points.shape[1] != 2:
        raise SettingError(f"plane coefficients have shape {tuple(points.shape)}; expected [K, 2], the pairs (s, t)")
    how = Conditions(prunable, buffers, training_batches, precision, folded, on_point)
    errors, losses = evaluate_between(model, [((first, second, third), points)], batches, how)
    return Plane(tuple((s, t) for s, t in points.tolist()), errors, losses, buffers)


def _check(positions: Sequence[float], errors: Sequence[float]) -> None:
    if len(positions) != len(errors):
        raise SettingError(f"a path of {len(positions)} positions has {len(errors)} errors; expected one each")
    check_positions(positions)


def check_positions(positions: Sequence[float]) -> None:
    """Raises a SettingError unless positions begin at 0, end at 1 and increase."""
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if len(positions) < 2 or positions[0] != 0 or positions[-1] != 1 or not ascending:
        raise SettingError(f"path positions are {list(positions)}; expected increasing numbers from 0 to 1")
