"""The stage that trains a network."""

from sparselt.runs.kinds.task import Task, write_json


def train(task: Task) -> int:
    """Trains a network from its initialization or from a checkpoint, dense or masked; evaluates it at the end."""
    import torch

    from sparselt.masks import Mask
    from sparselt.models import build_model
    from sparselt.optim import MaskedSGD
    from sparselt.runs import loaders
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training import loop
    from sparselt.training.checkpoint import load_tensors, restore_momentum, rewind_, save_momentum, save_tensors
    from sparselt.training.cpu import cpu_threads
    from sparselt.training.techniques import start_bias_for_bce_

    spec, recipe = task.spec, recipe_from_spec(task.spec["recipe"])
    with cpu_threads(recipe.threads):
        device = torch.device(spec["device"])
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
        model.to(device)
        optimizer = MaskedSGD(
            model.named_parameters(),
            lr=recipe.schedule.peak,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            decoupled_weight_decay=recipe.decoupled_weight_decay,
            mask=mask,
        )
        if "momentum" in task.inputs:
            restore_momentum(model, optimizer, load_tensors(task.inputs["momentum"]))
        start = spec["start_step"]

        def on_step(step: int) -> None:
            task.report(step - start)
            if f"step-{step}.safetensors" in task.outputs:
                save_tensors(model.state_dict(), task.folder / f"step-{step}.safetensors")
            if f"momentum-{step}.safetensors" in task.outputs:
                save_momentum(model, optimizer, task.folder / f"momentum-{step}.safetensors")

        trained = loop.train(
            model, optimizer, loaders.train_loader(task, recipe), recipe, start_step=start, on_step=on_step
        )
        error, loss = loop.evaluate(model, loaders.eval_loader(task, recipe.threads), recipe.precision)
        save_tensors(model.state_dict(), task.folder / "final.safetensors")
    density = 1.0 if mask is None else mask.density
    write_json(
        task.folder / "measurements.json",
        {
            "density": density,
            "test_error": error,
            "test_loss": loss,
            "train_loss": trained.train_loss,
            "train_loss_std": trained.train_loss_std,
        },
    )
    return trained.steps
