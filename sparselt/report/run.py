"""A run folder as the report reads it: the measurements, the record of what was asked, the ledger of what it cost."""

import contextlib
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args, get_type_hints

from sparselt.errors import StoreError
from sparselt.report import rules
from sparselt.report.data import Data
from sparselt.report.results import Row, read_results, read_text
from sparselt.report.table import Table
from sparselt.report.wording import count, duration, in_unit, listing, verb
from sparselt.runs.ledger import Entry

SAMPLES = "samples.png"
"""The file in a run's folder that shows training images of each class."""

_STATUSES = get_args(get_type_hints(Entry)["status"])
_RECORD_KEYS = {"setting": str, "scale": str, "title": str, "paper": str, "data": str, "synthetic": bool}
_LEDGER = ("stage", "kind", "label", "status", "steps", "seconds", "finished")


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

    def labelled(self, text: str) -> str:
        """The text of a report, in which errors on validation images are not called test errors."""
        if not on_validation(self.record):
            return text
        names = {"Test": "Validation", "test": "validation"}
        return re.sub(r"\b[Tt]est(?= (error|example))", lambda found: names[found[0]], text)


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


def rules_record(folder: Path) -> dict:
    """The entry `rules` for the record of a run in `folder`: the rules that judge it now, and those of before."""
    before: set[int] = set()
    with contextlib.suppress(OSError, ValueError):  # the first run in a folder, or a record that nobody could read
        of_run = json.loads((folder / "record.json").read_bytes()).get("rules", {})
        before = {of_run.get("version", 1), *of_run.get("judged_before", ())} - {rules.VERSION}
    return {"version": rules.VERSION, "digest": rules.digest(), "judged_before": sorted(before)}


def statement(record: Mapping) -> str:
    """One paragraph: what was run, on what data."""
    fraction, levels, steps = record.get("fraction"), record.get("levels"), record.get("steps")
    text = f"Setting {record['setting']}, scale {record['scale']}, after {record['paper'].rstrip('.')}. "
    criterion = record.get("criterion", "magnitude")
    text += f"Iterative {criterion} pruning with weight rewinding"
    if isinstance(levels, int) and isinstance(fraction, int | float):
        text += f": {count(levels, 'level')}, each removing {100 * fraction:g}% of the weights that remain"
    if rewind_steps := record.get("rewind_steps"):
        text += f", rewound to step {listing([f'{step:,}' for step in rewind_steps])}"
        text += f" of {steps:,}" if isinstance(steps, int) else ""
    if isinstance(record.get("replicates"), int):
        text += f"; {count(record['replicates'], 'replicate')}"
    text += "."
    if isinstance(experiments := record.get("experiments"), Mapping) and experiments and "imp" not in experiments:
        text += (
            f" Of this protocol the run has {count(len(experiments), 'experiment')} only: {listing(list(experiments))}."
        )
    text += f" {record['data']}"
    if protocol := record.get("evaluation"):  # as sparselt.data.evaluation_record says it
        images = "validation images, held out of the training set," if on_validation(record) else "test images"
        text += f" Evaluated on {protocol['count']:,} {images}"
        text += (
            " as they are stored."
            if protocol["crop"] == "none"
            else f", cropped to {protocol['crop']}, resized {protocol['resize']} by {protocol['interpolation']}."
        )
    return text


def on_validation(record: Mapping) -> bool:
    """Whether errors are of validation images, held out of the training set."""
    return record.get("evaluation", {}).get("split") == "validation"


def costs(ledger: Iterable[Entry]) -> Table:
    """What each kind of stage cost, in the order in which the kinds first occur."""
    kinds: dict[str, list[Entry]] = {}
    ledger = list(ledger)
    for entry in ledger:
        kinds.setdefault(entry.kind, []).append(entry)
    lines, total, total_now = [], 0.0, 0.0
    for entries in kinds.values():
        status = Counter(entry.status for entry in entries)
        seconds = math.fsum(entry.seconds for entry in entries)
        now = math.fsum(entry.seconds for entry in entries if entry.status != "found")
        work = in_unit(sum(entry.steps for entry in entries), entries[0].unit)
        numbers = [f"{status[name]:,}" for name in ("ran", "found", "failed", "skipped")]
        lines.append((entries[0].title, *numbers, work, duration(seconds), duration(now)))
        total, total_now = total + seconds, total_now + now
    note = (
        f"{duration(total)} of work by single workers in all, of which {duration(total_now)} in the last call; the "
        "rest was found in the store, and is counted with what it cost when it was made."
    )
    if masked := [e for e in ledger if e.dense_seconds is not None and e.density != 1]:
        taken, dense = (math.fsum(times) for times in zip(*((e.seconds, e.dense_seconds) for e in masked), strict=True))
        note += (
            f" The {count(len(masked), 'masked training')} on live weights alone took {duration(taken)}; at the pace "
            f"of the dense ones {verb(len(masked), 'it', 'they')} would have taken {duration(dense)}."
        )
    headings = ("stage", "ran", "found", "failed", "skipped", "done", "time", "in the last call")
    return Table(headings, lines, text=1, note=note)


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(read_text(path, "run the run's command again, or name the folder of a finished run"))
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
    _check_rules(path, record.get("rules", {"version": 1}))
    return record


def _check_rules(path: Path, of_run: object) -> None:
    """Raises a StoreError for rules that this installation does not have. Records before version 2 name none."""
    version, digest = (of_run.get(name) if isinstance(of_run, dict) else None for name in ("version", "digest"))
    if not isinstance(version, int) or version < 1:
        raise StoreError(f"{path}: 'rules' is {of_run!r}; expected a mapping with a version of the rules, from 1 on.")
    if version > rules.VERSION or (version == rules.VERSION and digest != rules.digest()):
        raise StoreError(
            f"{path}: the run was judged by version {version} of the rules ({digest}), and this installation has "
            f"version {rules.VERSION} ({rules.digest()}). Install the version of sparselt that made the run, or give "
            "its command again to judge it by the rules of this one."
        )


def _read_ledger(path: Path) -> tuple[Entry, ...]:
    """The ledger. Those of earlier versions lack `density` and `dense_seconds`, which are empty then, and earlier still
    `title` and `unit`: the kind's name, and steps.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "run again"), newline=""))
    header = reader.fieldnames or []
    columns = list(_LEDGER)
    known = [sorted(columns := columns + list(more)) for more in ((), ("title", "unit"), ("density", "dense_seconds"))]
    if sorted(header) not in known:
        expected = f"{','.join(_LEDGER)}, then title,unit, then density,dense_seconds, or none of these"
        raise StoreError(f"{path}, line 1: columns {reader.fieldnames}; expected {expected}.")
    entries = []
    for cells in reader:
        place = f"{path}, line {reader.line_num}"
        if None in cells or None in cells.values():
            raise StoreError(f"{place}: more or fewer cells than the header; expected {len(header)}.")
        if cells["status"] not in _STATUSES:
            raise StoreError(f"{place}: status {cells['status']!r}; expected one of {', '.join(_STATUSES)}.")
        try:
            numbers = {"steps": int(cells["steps"] or 0), "seconds": float(cells["seconds"] or 0)}
            optional = {name: float(text) for name in ("density", "dense_seconds") if (text := cells.pop(name, ""))}
        except ValueError:
            raise StoreError(f"{place}: steps or seconds is not a number; run again.") from None
        if not all(0 <= number < math.inf for number in (*numbers.values(), *optional.values())):
            raise StoreError(f"{place}: steps or seconds is not finite, or below 0; run again.")
        entries.append(Entry(**{"title": cells["kind"], "unit": "steps"} | cells | numbers | optional))
    return tuple(entries)
