"""Heat maps: the straight lines between all pairs of several networks (Paul et al. 2022, Figs. 2 and 6, right)."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselt.analysis.batch_norm import Buffers
from sparselt.analysis.between import Conditions, check_state, evaluate_between
from sparselt.analysis.connectivity import Path, check_positions
from sparselt.errors import SettingError


@dataclass(frozen=True)
class HeatMap:
    """The path between every pair of networks, by their numbers (i, j) with i < j, and each network's own error."""

    errors: tuple[float, ...]
    paths: Mapping[tuple[int, int], Path]

    @property
    def max_error(self) -> list[list[float]]:
        """The largest error between i and j, symmetric: what the papers' heat maps show. Diagonal: the networks'."""
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


def pairwise_max_error(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable,
    positions: Sequence[float],
    *,
    prunable: Collection[str] | None = None,
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
        Everything else as of `evaluate_path`, which also says what is raised. Where buffers are an end's (`second`),
            those at the other end of a line are still that network's own.

    Raises:
        SettingError: also for fewer than two networks, or positions that do not increase from 0 to 1.
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
