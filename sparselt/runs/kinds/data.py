"""Stages that make a data set ready."""

from pathlib import Path

from sparselt.runs.kinds.task import Task, write_json


def make_dataset(task: Task) -> int:
    """Writes the betons of a source, or notes where the user's own betons stand after checking them."""
    from sparselt.data import open_dataset, source_from_record, write_dataset

    if "folder" in task.local:
        dataset = open_dataset(task.local["folder"])
        write_json(task.folder / "dataset.json", {"folder": str(Path(task.local["folder"]).resolve())})
    else:
        write_dataset(source_from_record(task.spec["source"]), task.folder)
        dataset = open_dataset(task.folder)
        write_json(task.folder / "dataset.json", {"folder": "."})
    return dataset.count("train") + dataset.count("test")


def make_resident(task: Task) -> int:
    """Reads every beton once and keeps the pixels, for all trainings to map into memory."""
    from sparselt.data import write_resident
    from sparselt.runs import loaders

    dataset = loaders.dataset(task.inputs["dataset"])
    write_resident(dataset, task.folder)
    return dataset.count("train") + dataset.count("test")
