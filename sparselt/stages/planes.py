"""Stages that evaluate networks around a solution, its projection and the next level's solution."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.stages.paths import OnLines
from sparselt.stages.stage import StageFile, Task
from sparselt.stages.values import Value

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class WithProjection(OnLines):
    """Evaluates around the network w(L) in `first` and its projection m(L+1) ⊙ w(L) by `mask`."""

    first: StageFile
    mask: StageFile

    def projected(self, task: Task) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
        """The state of `first`, and the same under `mask`."""
        (first,) = self.states(task, (self.first,))
        mask = task.mask(self.mask)
        mask.check_fits(first)
        layers = {name: first[name] * layer.to(self.device) for name, layer in mask.items()}
        return first, {**first, **layers}


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatePlane(WithProjection):
    """Test error on a grid over the plane through w(L), m(L+1) ⊙ w(L) and w(L+1), `third` (Paul et al. 2022, Fig. 3).

    Positions are (x, y) of `sparselt.analysis.PlaneAxes`, with distances over all parameters. Metrics: `plane_error` at
    the grid points; `solution_error`, `projection_error` and `next_solution_error` at the three networks. points: on
    each side of the grid.
    """

    kind = "plane"
    title = "evaluate planes"

    third: StageFile

    def run(self, task: Task) -> int:
        import numpy as np

        from sparselt import analysis

        model = self.network()
        first, projection = self.projected(task)
        (third,) = self.states(task, (self.third,))
        axes = analysis.plane_axes(first, projection, third, [name for name, _ in model.named_parameters()])
        x, y = axes.grid(self.points)
        points = np.concatenate([np.array(axes.points), np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)])
        batches, coefficients = self.eval_images(task, self.threads), axes.coefficients(points)
        how = self.conditions(task)
        plane = analysis.evaluate_plane(model, first, projection, third, batches, coefficients, **how)
        metrics = ["solution_error", "projection_error", "next_solution_error"] + ["plane_error"] * (len(points) - 3)
        values = [
            Value(metric, error, position=position, position_2=position_2)
            for metric, error, (position, position_2) in zip(metrics, plane.errors, points.tolist(), strict=True)
        ]
        task.write_values(values, buffers=plane.buffers)
        return len(points)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateProjection(WithProjection):
    """Error along the straight line from w(L) to its projection m(L+1) ⊙ w(L)."""

    kind = "projection"
    title = "evaluate lines to projections"

    def run(self, task: Task) -> int:
        from sparselt import analysis

        positions = analysis.path_positions(self.points)
        first, projection = self.projected(task)
        batches = self.eval_images(task, self.threads)
        path = analysis.evaluate_path(self.network(), first, projection, batches, positions, **self.conditions(task))
        values = [
            Value("path_error", error, position=position)
            for position, error in zip(path.positions, path.errors, strict=True)
        ]
        task.write_values([*values, Value("max_error", max(path.errors))], buffers=path.buffers)
        return len(path.positions)
