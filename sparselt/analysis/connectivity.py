"""Linear paths between two networks: error along them, error barrier (Paul et al. 2022, section 2.1 and Def. A.1)."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.training.loop import evaluate


@dataclass(frozen=True)
class Path:
    """Test error (fraction) and loss (nats) at each position of a line: 0 is the first network, 1 the second."""

    positions: tuple[float, ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """The error barrier, see `error_barrier`."""
        return error_barrier(self.positions, self.errors)


def error_barrier(positions: Sequence[float], errors: Sequence[float]) -> float:
    """Smallest ε ≥ 0 with E(γ) ≤ (1 − γ) E(0) + γ E(1) + ε at every position γ (Paul et al. 2022, Def. A.1).

    Args:
        positions: increasing, from 0 to 1.
        errors: the error at each position, in the unit in which the barrier is wanted.

    Raises:
        SettingError: lists of different length, or positions that do not begin at 0, end at 1 and increase.
    """
    if len(positions) != len(errors):
        raise SettingError(f"a path of {len(positions)} positions has {len(errors)} errors; expected one each")
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if len(positions) < 2 or positions[0] != 0 or positions[-1] != 1 or not ascending:
        raise SettingError(f"path positions are {list(positions)}; expected increasing numbers from 0 to 1")
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


def interpolate_state(first: Mapping[str, Tensor], second: Mapping[str, Tensor], position: float) -> dict[str, Tensor]:
    """(1 − position) · first + position · second for all parameters and batch-norm statistics.

    The ends are exact. Integer buffers (batch counters) are the first network's.
    """
    if position == 0:
        return dict(first)
    if position == 1:
        return dict(second)
    return {
        name: torch.lerp(tensor, second[name], position) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def evaluate_path(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    batches: Iterable,
    positions: Sequence[float],
    *,
    precision: str = "float32",
    on_point: Callable[[int], None] = lambda done: None,
) -> Path:
    """Error and loss of the networks between two states; eval mode, batch-norm statistics interpolated like weights.

    Args:
        model: a network of the architecture; its state is overwritten.
        first, second: state dicts of the two ends.
        batches: the evaluation batches (`.images`, `.labels`); gone through once a position.
        positions: where to evaluate; see `path_positions`.
        on_point: called with the number of positions done.
    """
    errors, losses = [], []
    for done, position in enumerate(positions):
        on_point(done)
        model.load_state_dict(interpolate_state(first, second, position))
        error, loss = evaluate(model, batches, precision)
        errors.append(error)
        losses.append(loss)
    return Path(tuple(positions), tuple(errors), tuple(losses))
