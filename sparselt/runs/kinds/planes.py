"""Stages that evaluate networks around a solution, its projection and the next level's solution."""

from typing import TYPE_CHECKING

from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn


def evaluate_plane_through(task: Task) -> int:
    """Test error on a grid over the plane through w(L), m(L+1) ⊙ w(L) and w(L+1) (Paul et al. 2022, Fig. 3).

    Inputs `first`, `mask` and `third`. Values have (x, y) of `sparselt.analysis.PlaneAxes` as positions, distances
    taken over all parameters: `plane_error` at the grid points; `solution_error`, `projection_error` and
    `next_solution_error` at the three networks.
    """
    import numpy as np

    from sparselt import analysis
    from sparselt.runs import loaders
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    with cpu_threads(spec["threads"]):
        model, first, projection = _projected(task)
        third = _state(task, "third")
        axes = analysis.plane_axes(first, projection, third, [name for name, _ in model.named_parameters()])
        x, y = axes.grid(spec["points"])
        points = np.concatenate([np.array(axes.points), np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)])
        plane = analysis.evaluate_plane(
            model,
            first,
            projection,
            third,
            loaders.eval_loader(task, spec["threads"]),
            axes.coefficients(points),
            buffers=spec["batch_norm"],
            precision=spec["precision"],
            on_point=task.report,
        )
    metrics = ["solution_error", "projection_error", "next_solution_error"] + ["plane_error"] * (len(points) - 3)
    values = [
        {"metric": metric, "value": error, "position": position, "position_2": position_2}
        for metric, error, (position, position_2) in zip(metrics, plane.errors, points.tolist(), strict=True)
    ]
    write_json(task.folder / "values.json", {"values": values, "buffers": plane.buffers})
    return len(points)


def evaluate_projection(task: Task) -> int:
    """Error and loss along the straight line from w(L) to its projection m(L+1) ⊙ w(L). Inputs `first` and `mask`."""
    from sparselt import analysis
    from sparselt.runs import loaders
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    with cpu_threads(spec["threads"]):
        model, first, projection = _projected(task)
        path = analysis.evaluate_path(
            model,
            first,
            projection,
            loaders.eval_loader(task, spec["threads"]),
            analysis.path_positions(spec["points"]),
            buffers=spec["batch_norm"],
            precision=spec["precision"],
            on_point=task.report,
        )
    values = [
        {"metric": "path_error", "value": error, "position": position}
        for position, error in zip(path.positions, path.errors, strict=True)
    ]
    values.append({"metric": "max_error", "value": max(path.errors)})
    write_json(task.folder / "values.json", {"values": values, "buffers": path.buffers})
    return len(path.positions)


def _projected(task: Task) -> "tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]":
    """A network to evaluate with, the state of `first`, and the same under `mask`."""
    from sparselt.masks import Mask
    from sparselt.models import build_model

    spec = task.spec
    model = build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0).to(spec["device"])
    first = _state(task, "first")
    mask = Mask.load(task.inputs["mask"])
    mask.check_fits(first)
    layers = {name: first[name] * layer.to(spec["device"]) for name, layer in mask.items()}
    return model, first, {**first, **layers}


def _state(task: Task, name: str) -> "dict[str, Tensor]":
    from sparselt.training.checkpoint import load_tensors

    return {key: tensor.to(task.spec["device"]) for key, tensor in load_tensors(task.inputs[name]).items()}
