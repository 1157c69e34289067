"""Stages that evaluate networks on the straight lines between trained ones."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sparselt.stages.identity import numbered_key_names
from sparselt.stages.images import Evaluation
from sparselt.stages.stage import JsonFile, ReadJson, StageFile, Task
from sparselt.stages.values import Value


@dataclass(frozen=True)
class PathResult:
    """`path.json`: errors (fractions) and losses (nats) at the positions of a line, and their barriers."""

    positions: Sequence[float]
    errors: Sequence[float]
    losses: Sequence[float]
    barrier: float
    instability: float
    loss_barrier: float
    max_error: float
    buffers: str


@dataclass(frozen=True, kw_only=True, eq=False)
class OnLines(Evaluation):
    """A stage that evaluates networks on straight lines.

    Args:
        points: on each line, both ends included.
        batch_norm: the choice of batch-norm statistics, see `sparselt.analysis.batch_norm.Buffers`.
        batch_norm_images: a random subsample of the training images for `reestimate`.
    """

    points: int
    batch_norm: Literal["interpolate", "first", "second", "third", "reestimate", "per_batch"] = "interpolate"
    batch_norm_images: int | None = None

    def conditions(self, task: Task) -> dict[str, Any]:
        options: dict[str, Any] = {
            "buffers": self.batch_norm,
            "precision": self.precision,
            "on_point": task.report,
        }
        if self.batch_norm_images is not None:
            images = self.eval_images(task, self.threads, split="train", count=self.batch_norm_images)
            options["training_batches"] = images
        return options


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatePath(OnLines):
    """Error and loss along the straight line between two trained networks, barriers and instability."""

    kind = "path"
    version = 3
    title = "evaluate linear paths"

    first: StageFile
    second: StageFile

    @property
    def measured(self) -> JsonFile[PathResult]:
        return self.json_file("path.json", PathResult)

    def values(self, read: ReadJson) -> Iterator[Value]:
        path = read(self.measured)
        for position, error, loss in zip(path.positions, path.errors, path.losses, strict=True):
            yield Value("path_error", error, position=position)
            yield Value("path_loss", loss, position=position)
        for metric in ("barrier", "max_error", "instability", "loss_barrier"):
            yield Value(metric, getattr(path, metric))

    def run(self, task: Task) -> int:
        from sparselt import analysis

        positions = analysis.path_positions(self.points)
        first, second = self.states(task, (self.first, self.second))
        batches = self.eval_images(task, self.threads)
        path = analysis.evaluate_path(self.network(), first, second, batches, positions, **self.conditions(task))
        barriers = (path.barrier, path.instability, path.loss_barrier, max(path.errors))
        task.write(self.measured, PathResult(path.positions, path.errors, path.losses, *barriers, path.buffers))
        return len(path.positions)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatePairs(OnLines):
    """The lines between all pairs of networks: largest error, barrier and instability.

    Each metric has a value for each pair; `level` < `to_level` are the networks' numbers. If they are equal,
    `max_error` is the network's own error.
    """

    kind = "heat_map"
    title = "evaluate the lines between all pairs"

    networks: Annotated[tuple[StageFile, ...], numbered_key_names("network")]

    def run(self, task: Task) -> int:
        from sparselt import analysis

        count = len(self.networks)
        positions = analysis.path_positions(self.points)
        states = self.states(task, self.networks)
        batches = self.eval_images(task, self.threads)
        found = analysis.pairwise_max_error(self.network(), states, batches, positions, **self.conditions(task))
        matrices = {metric: getattr(found, metric) for metric in ("max_error", "barrier", "instability")}
        values = [
            Value(metric, matrix[i][j], level=i, to_level=j)
            for metric, matrix in matrices.items()
            for i, j in itertools.combinations(range(count), 2)
        ]
        values += [Value("max_error", error, level=i, to_level=i) for i, error in enumerate(found.errors)]
        task.write_values(values)
        return count + len(found.paths) * (len(positions) - 2)
