"""The plane through three networks: error and loss on it (Paul et al. 2022, Figs. 3, 7 and 8, appendix C)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.analysis.batch_norm import Buffers
from sparselt.analysis.between import Conditions, evaluate_between
from sparselt.errors import SettingError


@dataclass(frozen=True)
class Plane:
    """Test error (fraction) and loss (nats) at points (s, t): first + s · (second − first) + t · (third − first).

    buffers: where the batch-norm statistics came from, see `evaluate_plane`.
    """

    coefficients: tuple[tuple[float, float], ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    buffers: Buffers


def evaluate_plane(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    third: Mapping[str, Tensor],
    batches: Iterable,
    coefficients: Tensor | Sequence[tuple[float, float]],
    *,
    prunable: Iterable[str] | Iterable[tuple[str, Tensor]] | None = None,
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
        buffers: as of `evaluate_path`, and `third`; where interpolated, they are projected like what is not prunable.
        Everything else as of `evaluate_path`, which also says what is raised.

    Raises:
        SettingError: also for coefficients of another shape.
    """
    points = torch.as_tensor(coefficients, dtype=torch.float64)
    if points.dim() != 2 or points.shape[1] != 2:
        raise SettingError(f"plane coefficients have shape {tuple(points.shape)}; expected [K, 2], the pairs (s, t)")
    how = Conditions(prunable, buffers, training_batches, precision, folded, on_point)
    errors, losses = evaluate_between(model, [((first, second, third), points)], batches, how)
    return Plane(tuple((s, t) for s, t in points.tolist()), errors, losses, buffers)
