"""Trainings made side by side: the stages of a group as one cohort, and how many of them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparselt.runs.kinds.task import Task
from sparselt.runs.kinds.training import start_network, train_alone, write_results

if TYPE_CHECKING:
    import torch

    from sparselt.masks import Mask
    from sparselt.training.cohort import Cohort, Member, Network


def train_together(tasks: Sequence[Task]) -> Iterator[tuple[int, int | Exception]]:
    """Trains the networks of tasks of one group (`sparselt.runs.cohorts`) side by side; yields each when it is done.

    With a task's place comes the number of steps made, or the error: of an input that does not read, or of a network
    that diverged. The others go on.
    """
    from sparselt.errors import SparseltError
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training.captured import pinned_algorithms
    from sparselt.training.cpu import cpu_threads
    from sparselt.training.joining import reason_against

    recipe = recipe_from_spec(tasks[0].spec["recipe"])
    with cpu_threads(recipe.threads):
        members = {}
        for place, task in enumerate(tasks):
            try:
                model, mask = start_network(task)
                members[place] = _member(task, model, mask)
            except (SparseltError, OSError) as error:
                yield place, error
        if not members:
            return
        if reason_against(recipe, model):
            for place in members:
                try:
                    yield place, train_alone(tasks[place])
                except SparseltError as error:
                    yield place, error
            return
        cohort, places = _cohort(tasks[0], len(members)), list(members)
        for k, network, result in cohort.train(list(members.values())):
            place = places[k]
            if not isinstance(result, Exception):
                with pinned_algorithms():  # for the evaluation, as when it is trained alone
                    write_results(tasks[place], network, members[place].mask, result)
                result = result.steps
            yield place, result


def best_cohort(task: Task) -> int:
    """How many networks like the task's are best trained side by side on its device, measured there."""
    import torch

    from sparselt.runs.cohorts import best_size
    from sparselt.training.cpu import cpu_threads

    device = torch.device(task.spec["device"])
    _kept.clear()
    free = _free_memory(device)
    taken = 0

    def speed(size: int) -> float | None:
        nonlocal taken
        if 2 * taken > 0.8 * free:  # twice the networks take at most twice the memory
            return None
        try:
            found = _cohort(task, size).images_per_second()
        except torch.OutOfMemoryError:
            return None
        taken = free - _free_memory(device)
        return found

    with cpu_threads(task.spec["recipe"]["threads"]):
        return best_size(speed)


_kept: dict[tuple, "Cohort"] = {}  # the last one: on a GPU its captured step serves the next stages of equal shape


def _cohort(task: Task, size: int) -> "Cohort":
    """A cohort of that size for the task's group: the one of the unit before, if it will do."""
    from sparselt.models import build_model
    from sparselt.runs import loaders
    from sparselt.runs.cohorts import shared_spec
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training.cohort import Cohort

    spec, recipe = task.spec, recipe_from_spec(task.spec["recipe"])
    loader = loaders.train_loader(task, recipe)
    key = (shared_spec(spec), size)
    if key not in _kept or not _kept[key].reads(loader):
        _kept.clear()
        _free_memory(loader.device)
        models = [
            build_model(recipe.model, classes=spec["classes"], channels=spec["channels"], seed=0).to(loader.device)
            for _ in range(size)
        ]
        _kept[key] = Cohort(models, recipe, loader)
    return _kept[key]


def _free_memory(device: "torch.device") -> int:
    """Bytes, after what nobody holds has been given back."""
    import gc
    import os

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _member(task: Task, model: "torch.nn.Module", mask: "Mask | None") -> "Member":
    from sparselt.runs import loaders
    from sparselt.runs.specs import recipe_from_spec
    from sparselt.training.checkpoint import load_tensors, save_tensors
    from sparselt.training.cohort import Member

    recipe, start = recipe_from_spec(task.spec["recipe"]), task.spec["start_step"]

    def on_step(step: int, network: "Network") -> None:
        task.report(step - start)
        if f"step-{step}.safetensors" in task.outputs:
            save_tensors(network.model.state_dict(), task.folder / f"step-{step}.safetensors")
        if f"momentum-{step}.safetensors" in task.outputs:
            save_tensors(network.momentum(), task.folder / f"momentum-{step}.safetensors")

    return Member(
        recipe,
        loaders.train_loader(task, recipe),
        model.state_dict(),
        start_step=start,
        mask=mask,
        momentum=load_tensors(task.inputs["momentum"]) if "momentum" in task.inputs else None,
        on_step=on_step,
    )
