"""Stages that evaluate networks between trained ones."""

from sparselt.runs.kinds.task import Task, write_json


def evaluate_path(task: Task) -> int:
    """Error and loss along the straight line between two trained networks, and the error barrier."""
    import torch

    from sparselt import analysis
    from sparselt.models import build_model
    from sparselt.runs import loaders
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.cpu import cpu_threads

    spec = task.spec
    with cpu_threads(spec["threads"]):
        device = torch.device(spec["device"])
        model = build_model(spec["model"], classes=spec["classes"], channels=spec["channels"], seed=0).to(device)
        ends = [
            {name: tensor.to(device) for name, tensor in load_tensors(task.inputs[end]).items()}
            for end in ("first", "second")
        ]
        path = analysis.evaluate_path(
            model,
            *ends,
            loaders.eval_loader(task, spec["threads"]),
            analysis.path_positions(spec["points"]),
            precision=spec["precision"],
            on_point=task.report,
        )
    write_json(
        task.folder / "path.json",
        {
            "positions": path.positions,
            "errors": path.errors,
            "losses": path.losses,
            "barrier": path.barrier,
            "max_error": max(path.errors),
            "buffers": path.buffers,
        },
    )
    return len(path.positions)
