"""Stages that evaluate networks between trained ones."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn


def evaluate_path(task: Task) -> int:
    """Error and loss along the straight line between two trained networks, barriers and instability."""
    from sparselt import analysis
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    with cpu_threads(spec["threads"]):
        positions = analysis.path_positions(spec["points"])
        first, second = _states(task, ("first", "second"))
        path = analysis.evaluate_path(_model(task), first, second, _batches(task), positions, **_conditions(task))
    write_json(
        task.folder / "path.json",
        {
            "positions": path.positions,
            "errors": path.errors,
            "losses": path.losses,
            "barrier": path.barrier,
            "instability": path.instability,
            "loss_barrier": path.loss_barrier,
            "max_error": max(path.errors),
            "buffers": path.buffers,
        },
    )
    return len(path.positions)


def evaluate_heat_map(task: Task) -> int:
    """The lines between all pairs of the networks `network_0`, `network_1`, …: largest error, barrier, instability.

    Writes `values.json`, a value a metric and pair, `level` < `to_level` being the networks' numbers; where they are
    equal, `max_error` is the network's own error.
    """
    from sparselt import analysis
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    count = sum(name.startswith("network_") for name in task.inputs)
    with cpu_threads(spec["threads"]):
        positions = analysis.path_positions(spec["points"])
        states = _states(task, [f"network_{number}" for number in range(count)])
        found = analysis.pairwise_max_error(_model(task), states, _batches(task), positions, **_conditions(task))
    values = [
        {"metric": metric, "value": matrix[i][j], "level": i, "to_level": j}
        for metric, matrix in (
            ("max_error", found.max_error),
            ("barrier", found.barrier),
            ("instability", found.instability),
        )
        for i, j in itertools.combinations(range(count), 2)
    ]
    values += [
        {"metric": "max_error", "value": error, "level": i, "to_level": i} for i, error in enumerate(found.errors)
    ]
    write_json(task.folder / "values.json", {"values": values})
    return count + len(found.paths) * (len(positions) - 2)


def _model(task: Task) -> "nn.Module":
    from sparselt.models import build_model

    spec = task.spec
    return build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0).to(spec["device"])


def _states(task: Task, names: Sequence[str]) -> list[dict[str, "Tensor"]]:
    from sparselt.training.checkpoint import load_tensors

    device = task.spec["device"]
    return [{key: tensor.to(device) for key, tensor in load_tensors(task.inputs[name]).items()} for name in names]


def _batches(task: Task):
    from sparselt.runs import loaders

    return loaders.eval_loader(task, task.spec["threads"])


def _conditions(task: Task) -> dict[str, Any]:
    """Options of the evaluation. `batch_norm` is one of `sparselt.analysis.batch_norm.Buffers`.

    `reestimate` takes the statistics of `batch_norm_images` training images, a random subsample, not augmented.
    """
    from sparselt.runs import loaders

    spec = task.spec
    options = {"buffers": spec["batch_norm"], "precision": spec["precision"], "on_point": task.report}
    if spec["batch_norm"] == "reestimate":
        options["training_batches"] = loaders.eval_loader(
            task, spec["threads"], split="train", images=spec["batch_norm_images"]
        )
    return options
