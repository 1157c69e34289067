"""The stage that trains a network."""

from typing import TYPE_CHECKING

from sparselt.runs.kinds.task import Task, write_json

if TYPE_CHECKING:
    import torch

    from sparselt.masks import Mask
    from sparselt.training.loop import Trained
    from sparselt.training.repulsion import Repulsion


def train(task: Task) -> int:
    """Trains a network from its initialization or from a checkpoint, dense or masked; evaluates it at the end."""
    from sparselt.runs.cohorts import can_join
    from sparselt.runs.kinds.together import train_together

    if task.spec["device"] == "cpu" or not can_join(task.spec, task.inputs):
        return train_alone(task)
    ((_, result),) = train_together([task])
    if isinstance(result, Exception):
        raise result
    return result


def train_alone(task: Task) -> int:
    """Trains the network by the loop that trains any."""
    import torch

    from sparselt.optim import build_optimizer
    from sparselt.runs import loaders
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training import loop
    from sparselt.training.captured import pinned_algorithms
    from sparselt.training.checkpoint import load_tensors, restore_momentum, save_momentum, save_tensors
    from sparselt.training.cpu import cpu_threads

    recipe = recipe_from_spec(task.spec["recipe"])
    with cpu_threads(recipe.threads), pinned_algorithms():
        model, mask = start_network(task)
        model.to(torch.device(task.spec["device"]))
        optimizer = build_optimizer(recipe, model.named_parameters(), mask)
        if "momentum" in task.inputs:
            restore_momentum(model, optimizer, load_tensors(task.inputs["momentum"]))
        start = task.spec["start_step"]

        def on_step(step: int) -> None:
            task.report(step - start)
            if f"step-{step}.safetensors" in task.outputs:
                save_tensors(model.state_dict(), task.folder / f"step-{step}.safetensors")
            if f"momentum-{step}.safetensors" in task.outputs:
                save_momentum(model, optimizer, task.folder / f"momentum-{step}.safetensors")

        trained = loop.train(
            model,
            optimizer,
            loaders.train_loader(task, recipe),
            recipe,
            start_step=start,
            on_step=on_step,
            penalty=_repulsion(task, model, mask),
        )
        write_results(task, model, mask, trained)
    return trained.steps


def start_network(task: Task) -> tuple["torch.nn.Module", "Mask | None"]:
    """The network on the CPU as its training begins, and its mask."""
    from sparselt.masks import Mask
    from sparselt.models import build_model
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training.checkpoint import load_tensors, rewind_
    from sparselt.training.techniques import start_bias_for_bce_

    spec, recipe = task.spec, recipe_from_spec(task.spec["recipe"])
    model = build_model(
        recipe.model,
        classes=spec["classes"],
        channels=spec["channels"],
        seed=spec["seeds"]["initialization"],
        initialization=recipe.initialization,
        norm_scale=recipe.norm_scale,
    )
    if recipe.techniques.bce:
        start_bias_for_bce_(model, spec["classes"])
    mask = Mask.load(task.inputs["mask"]) if "mask" in task.inputs else None
    if "weights" in task.inputs:
        rewind_(model, load_tensors(task.inputs["weights"]), mask)
    elif mask is not None:
        mask.apply_(model)
    return model, mask


def _repulsion(task: Task, model: "torch.nn.Module", mask: "Mask | None") -> "Repulsion | None":
    """The repelling loss that the spec asks for, from the solutions among the inputs."""
    if "repulsion" not in task.spec:
        return None
    from sparselt.masks import Mask
    from sparselt.training.checkpoint import load_tensors
    from sparselt.training.repulsion import Repulsion

    count = sum(name.startswith("solution_") for name in task.inputs)
    solutions = [load_tensors(task.inputs[f"solution_{place}"]) for place in range(count)]
    return Repulsion(solutions, Mask.ones_like(model) if mask is None else mask, task.spec["repulsion"])


def write_results(task: Task, model: "torch.nn.Module", mask: "Mask | None", trained: "Trained") -> None:
    """Writes the trained network, and its error on the test split with the rest that was measured."""
    from sparselt.runs import loaders
    from sparselt.training import loop
    from sparselt.training.checkpoint import save_tensors

    recipe = task.spec["recipe"]
    error, loss = loop.evaluate(model, loaders.eval_loader(task, recipe["threads"]), recipe["precision"])
    save_tensors(model.state_dict(), task.folder / "final.safetensors")
    write_json(
        task.folder / "measurements.json",
        {
            "density": 1.0 if mask is None else mask.density,
            "test_error": error,
            "test_loss": loss,
            "train_loss": trained.train_loss,
            "train_loss_std": trained.train_loss_std,
        },
    )
