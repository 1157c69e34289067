"""Linear paths between two networks: error along them, error barrier (Paul et al. 2022, section 2.1 and Def. A.1)."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.analysis.batch_norm import Buffers
from sparselt.analysis.between import Conditions, evaluate_between
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


def error_barrier(positions: Sequence[float], errors: Sequence[float]) -> float:
    """Smallest ε ≥ 0 with E(γ) ≤ (1 − γ) E(0) + γ E(1) + ε at every position γ (Paul et al. 2022, Def. A.1).

    Args:
        positions: increasing, from 0 to 1.
        errors: the error at each position, in the unit in which the barrier is wanted. If one is not finite, nor is
            the barrier: NaN.

    Raises:
        SettingError: lists of different length, or positions that do not begin at 0, end at 1 and increase.
    """
    _check(positions, errors)
    if not all(map(math.isfinite, errors)):
        return math.nan
    straight = [(1 - gamma) * errors[0] + gamma * errors[-1] for gamma in positions]
    return max(0.0, *(error - line for error, line in zip(errors[1:-1], straight[1:-1], strict=True)), 0.0)


def instability(positions: Sequence[float], errors: Sequence[float]) -> float:
    """The largest error on the path less the mean of its ends' (Frankle et al. 2020, section 2).

    At least half the difference between the ends, where the error barrier is zero on a straight line. The paper calls a
    network stable below 2%, over 30 points.

    Args, raises:
        Those of `error_barrier`.
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
    positions: Sequence[float] | Tensor,
    *,
    prunable: Iterable[str] | Iterable[tuple[str, Tensor]] | None = None,
    buffers: Buffers = "interpolate",
    training_batches: Iterable | None = None,
    precision: str = "float32",
    folded: bool = True,
    on_point: Callable[[int], None] = lambda done: None,
) -> Path:
    """Error and loss, in eval mode, of the networks (1 − position) · first + position · second.

    All parameters are interpolated; the ends are exact. Outside [0, 1] only prunable parameters extrapolate and the
    others stay at the nearer end (Paul et al. 2022, appendix C). Outputs that are no numbers count as errors, and their
    loss is NaN: that, not the error, tells a network that has diverged.

    Args:
        model: a network of the architecture, left as it is.
        first, second: state dicts of the two ends, on one device.
        batches: the evaluation batches, each (images, labels, …); gone through once for as many positions as fit a
            gigabyte.
        positions: where to evaluate, numbers or a tensor of them; see `path_positions`.
        prunable: names of the parameters that extrapolate, or pairs that begin with one; default: those of
            `sparselt.prunable_parameters`.
        buffers: where batch-norm statistics come from, see `sparselt.analysis.batch_norm.Buffers`. With `per_batch`
            the result depends on the batch size.
        training_batches: for `reestimate`; gone through as often as `batches`.
        precision: `float32`, or `bfloat16` autocast: faster, and it may flip single errors.
        folded: whether batch norms are folded into convolutions where their statistics are fixed, and batches cut into
            pieces for the caches (not where batch norm takes the statistics of each batch). Outputs of float32 then
            agree to about 1e-5 of their size; without, they are equal to the bit to
            `sparselt.training.loop.evaluate`'s. A network whose forward pass mixes the samples of a batch in any other
            way needs folded=False, and float32: bfloat16 is always cut into pieces.
        on_point: called with the number of positions done, as it rises.

    Raises:
        SettingError: state dicts that do not fit the model or each other, an unknown choice of buffers, `reestimate`
            without batches, or a prunable name that is no parameter; no position, or one that is not finite.
    """
    positions = tuple(map(float, positions))
    if not positions:
        raise SettingError("positions are empty; expected one or more, such as those of path_positions(11)")
    spans = [((first, second), torch.tensor(positions, dtype=torch.float64))]
    how = Conditions(prunable, buffers, training_batches, precision, folded, on_point)
    errors, losses = evaluate_between(model, spans, batches, how)
    return Path(positions, errors, losses, buffers)


def _check(positions: Sequence[float], errors: Sequence[float]) -> None:
    if len(positions) != len(errors):
        raise SettingError(f"a path of {len(positions)} positions has {len(errors)} errors; expected one each")
    check_positions(positions)


def check_positions(positions: Sequence[float]) -> None:
    """Raises a SettingError unless positions begin at 0, end at 1 and increase."""
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if len(positions) < 2 or positions[0] != 0 or positions[-1] != 1 or not ascending:
        raise SettingError(f"path positions are {list(positions)}; expected increasing numbers from 0 to 1")
