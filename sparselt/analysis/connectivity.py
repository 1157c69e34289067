"""Linear paths between two networks: error along them, error barrier (Paul et al. 2022, section 2.1 and Def. A.1)."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.analysis.between import Buffers, evaluate_between
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


def error_barrier(positions: Sequence[float], errors: Sequence[float]) -> float:
    """Smallest ε ≥ 0 with E(γ) ≤ (1 − γ) E(0) + γ E(1) + ε at every position γ (Paul et al. 2022, Def. A.1).

    Args:
        positions: increasing, from 0 to 1.
        errors: the error at each position, in the unit in which the barrier is wanted. If one is not finite, nor is
            the barrier: NaN.

    Raises:
        SettingError: lists of different length, or positions that do not begin at 0, end at 1 and increase.
    """
    if len(positions) != len(errors):
        raise SettingError(f"a path of {len(positions)} positions has {len(errors)} errors; expected one each")
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if len(positions) < 2 or positions[0] != 0 or positions[-1] != 1 or not ascending:
        raise SettingError(f"path positions are {list(positions)}; expected increasing numbers from 0 to 1")
    if not all(map(math.isfinite, errors)):
        return math.nan
    straight = [(1 - gamma) * errors[0] + gamma * errors[-1] for gamma in positions]
    return max(0.0, *(error - line for error, line in zip(errors[1:-1], straight[1:-1], strict=True)), 0.0)


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
    positions: Sequence[float],
    *,
    prunable: Collection[str] | None = None,
    buffers: Buffers = "interpolate",
    training_batches: Iterable | None = None,
    precision: str = "float32",
    on_point: Callable[[int], None] = lambda done: None,
) -> Path:
    """Error and loss, in eval mode, of the networks (1 − position) · first + position · second.

    All parameters are interpolated; the ends are exact. Outside [0, 1] only prunable parameters extrapolate and the
    others stay at the nearer end (Paul et al. 2022, appendix C).

    Args:
        model: a network of the architecture; its state is overwritten.
        first, second: state dicts of the two ends, on one device.
        batches: the evaluation batches, each (images, labels, …); gone through once a position.
        positions: where to evaluate; see `path_positions`.
        prunable: names of the parameters that extrapolate; default: those of `sparselt.prunable_parameters`.
        buffers: where batch-norm statistics come from. `interpolate`: interpolated like weights (what the authors'
            code does, and the default; counters are the first network's); `first` or `second`: all buffers are that
            end's; `reestimate`: the mean over `training_batches`, gone through once a position.
        precision: `float32`, or `bfloat16` autocast.
        on_point: called with the number of positions done.

    Raises:
        SettingError: state dicts that do not fit the model or each other, an unknown choice of buffers, `reestimate`
            without batches, or a prunable name that is no parameter.
    """
    coefficients = torch.tensor(positions, dtype=torch.float64)
    errors, losses = evaluate_between(
        model,
        (first, second),
        coefficients,
        batches,
        prunable=prunable,
        buffers=buffers,
        training_batches=training_batches,
        precision=precision,
        on_point=on_point,
    )
    return Path(tuple(positions), errors, losses, buffers)
