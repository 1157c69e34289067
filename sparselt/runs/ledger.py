"""`ledger.csv`: the cost of a run, stage by stage."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from sparselt.files import replacing

Status = Literal["ran", "found", "failed", "skipped"]


@dataclass(frozen=True)
class Entry:
    """One stage of a run.

    kind, title: the kind of stage. unit: the unit of `steps` (optimizer steps, points, images). status: `ran` in this
    run, `found` in the store (with the seconds of the run that made it), `failed`, or `skipped` because a stage that it
    needs failed. seconds: wall-clock, in one worker. finished: UTC time.
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


def write_ledger(entries: Iterable[Entry], path: Path) -> None:
    """Writes the ledger, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) | {"seconds": f"{entry.seconds:.3f}"} for entry in entries)
