"""`ledger.csv`: the cost of a run, stage by stage."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from sparselt.files import replacing
from sparselt.runs.store import Store
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train

Status = Literal["ran", "found", "failed", "skipped"]


@dataclass(frozen=True)
class Entry:
    """One stage of a run.

    kind, title: the kind of stage. unit: the unit of `steps` (optimizer steps, points, images). status: `ran` in this
    run, `found` in the store (with the seconds of the run that made it), `failed`, or `skipped` because a stage that it
    needs failed. seconds: wall-clock, in one worker. finished: UTC time. density: of a training's mask. dense_seconds:
    what a training on live weights alone would take at the pace of the run's dense ones with its recipe (schedules
    apart). repeats: the error of a failed stage is known to come again; not a column.
    """

    stage: str
    kind: str
    label: str
    status: Status
    steps: int
    seconds: float
    finished: str
    title: str = ""
    unit: str = "steps"
    density: float | None = None
    dense_seconds: float | None = None
    repeats: bool = field(default=False, metadata={"column": False})


_LEAST_STEPS = 200


def with_densities(entries: Iterable[Entry], stages: Iterable[Stage], store: Store) -> list[Entry]:
    """The entries, with density for trainings that are in the store, and dense_seconds for those on live weights alone.

    Fewer dense steps than `_LEAST_STEPS` give no pace: the first ones of a process take longer.
    """
    entries, paces = list(entries), dict[str, list[float]]()
    trainings = {stage.key: stage for stage in stages if isinstance(stage, Train)}
    made = [entry for entry in entries if entry.stage in trainings and entry.status in ("ran", "found") and entry.steps]
    density = {entry.stage: store.read(trainings[entry.stage].measured).density for entry in made}
    for entry in made:
        if density[entry.stage] == 1 and entry.steps >= _LEAST_STEPS:
            paces.setdefault(trainings[entry.stage].shared, []).append(entry.seconds / entry.steps)
    pace = {recipe: statistics.median(seconds) for recipe, seconds in paces.items()}
    for place, entry in enumerate(entries):
        if entry.stage in density:
            recipe = trainings[entry.stage].recipe
            alone = density[entry.stage] <= recipe.sparse_up_to
            dense = pace.get(trainings[entry.stage].shared) if alone else None
            seconds = None if dense is None else dense * entry.steps
            entries[place] = replace(entry, density=density[entry.stage], dense_seconds=seconds)
    return entries


def write_ledger(entries: Iterable[Entry], path: Path) -> None:
    """Writes the ledger, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        columns = [f.name for f in fields(Entry) if f.metadata.get("column", True)]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for entry in entries:
            row = vars(entry) | {"seconds": f"{entry.seconds:.3f}"}
            if entry.dense_seconds is not None:
                row["dense_seconds"] = f"{entry.dense_seconds:.3f}"
            writer.writerow(row)
