"""A run folder as the report reads it: the measurements, the record of what was asked, the ledger of what it cost."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import get_args, get_type_hints

from sparselt.errors import StoreError
from sparselt.report.results import Row, read_results, read_text
from sparselt.report.section import Data
from sparselt.runs.ledger import Entry

_STATUSES = get_args(get_type_hints(Entry)["status"])
_RECORD_KEYS = {"setting": str, "scale": str, "title": str, "paper": str, "data": str, "synthetic": bool}


@dataclass(frozen=True)
class Cost:
    """What the stages of one kind cost.

    `steps` counts the units of the kind (optimizer steps, points, images); `seconds` is their wall-clock time in one
    worker. Both include the stages found in the store, with what they cost when they were made; `seconds_now` does not.
    """

    kind: str
    ran: int
    found: int
    failed: int
    skipped: int
    steps: int
    seconds: float
    seconds_now: float


@dataclass(frozen=True)
class Run:
    """A run folder, read. `ledger` is None where the folder holds none."""

    folder: Path
    rows: tuple[Row, ...]
    record: Mapping
    ledger: tuple[Entry, ...] | None

    @cached_property
    def data(self) -> Data:
        """What the sections of the report are made from."""
        return Data(self.rows, self.record, self.ledger or ())


def read_run(folder: str | Path) -> Run:
    """Read results.csv, record.json and, if there, ledger.csv. StoreError for what is missing or malformed."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; expected the folder of a run, which holds results.csv.")
    rows, record = read_results(folder), _read_record(folder / "record.json")
    for row in rows:
        if (row.setting, row.scale) != (record["setting"], record["scale"]):
            raise StoreError(
                f"{folder / 'results.csv'} holds {row.setting} at scale {row.scale}, record.json "
                f"{record['setting']} at scale {record['scale']}; expected one setting and scale in a folder."
            )
    if len(rows) != record.get("rows", len(rows)):
        raise StoreError(
            f"{folder / 'results.csv'} holds {len(rows)} measurements, record.json says {record['rows']}; run again."
        )
    path = folder / "ledger.csv"
    return Run(folder, tuple(rows), record, _read_ledger(path) if path.exists() else None)


def costs(ledger: Iterable[Entry]) -> list[Cost]:
    """What each kind of stage cost, in the order in which the kinds first occur."""
    kinds: dict[str, list[Entry]] = {}
    for entry in ledger:
        kinds.setdefault(entry.kind, []).append(entry)
    return [_cost(kind, entries) for kind, entries in kinds.items()]


def _cost(kind: str, entries: list[Entry]) -> Cost:
    status = Counter(entry.status for entry in entries)
    steps, seconds = sum(entry.steps for entry in entries), math.fsum(entry.seconds for entry in entries)
    now = math.fsum(entry.seconds for entry in entries if entry.status != "found")
    return Cost(kind, *(status[name] for name in ("ran", "found", "failed", "skipped")), steps, seconds, now)


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(read_text(path, "finish the run, or name the folder of one that has finished"))
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from None
    if not isinstance(record, dict):
        raise StoreError(f"{path} holds a {type(record).__name__}; expected a JSON object.")
    for key, kind in _RECORD_KEYS.items():
        if not isinstance(record.get(key), kind):
            raise StoreError(f"{path}: {key!r} is {record.get(key)!r}; expected a {kind.__name__}.")
    protocol = record.get("protocol", [])
    if not isinstance(protocol, list) or any(not isinstance(line, list) or len(line) != 3 for line in protocol):
        raise StoreError(f"{path}: 'protocol' is not a list of [name, value, source].")
    return record


def _read_ledger(path: Path) -> tuple[Entry, ...]:
    columns = [field.name for field in fields(Entry)]
    reader = csv.DictReader(io.StringIO(read_text(path, "run again"), newline=""))
    if reader.fieldnames != columns:
        raise StoreError(f"{path}, line 1: columns {reader.fieldnames}; expected {','.join(columns)}.")
    entries = []
    for cells in reader:
        place = f"{path}, line {reader.line_num}"
        if None in cells or None in cells.values():
            raise StoreError(f"{place}: more or fewer cells than the header; expected {len(columns)}.")
        if cells["status"] not in _STATUSES:
            raise StoreError(f"{place}: status {cells['status']!r}; expected one of {', '.join(_STATUSES)}.")
        try:
            numbers = {"steps": int(cells["steps"] or 0), "seconds": float(cells["seconds"] or 0)}
        except ValueError:
            raise StoreError(f"{place}: steps or seconds is not a number; run again.") from None
        if not (numbers["steps"] >= 0 and 0 <= numbers["seconds"] < math.inf):
            raise StoreError(f"{place}: steps or seconds is not finite, or below 0; run again.")
        entries.append(Entry(**cells | numbers))
    return tuple(entries)
