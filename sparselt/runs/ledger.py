"""What a run cost, stage by stage: `ledger.csv`."""

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One stage of a run.

    `status`: `ran` in this run, `found` in the store (its seconds are those of the run that made it), `failed`, or
    `skipped` because something it needs failed. `steps` are the units of its kind: optimizer steps, points, images.
    `seconds` are wall-clock, in one worker. `finished` is the UTC time.
    """

    stage: str
    kind: str
    label: str
    status: Literal["ran", "found", "failed", "skipped"]
    steps: int
    seconds: float
    finished: str


def write_ledger(entries: Iterable[Entry], path: Path) -> None:
    """Writes the ledger through a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) | {"seconds": f"{entry.seconds:.3f}"} for entry in entries)
    os.replace(temporary, path)
