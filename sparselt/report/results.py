"""The measurements of a run: `results.csv` in long format, one measurement a row, and the same in `results.json`."""

import csv
import functools
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from sparselt.errors import StoreError


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. Errors and barriers are fractions in [0, 1]; None is an empty cell, which means not applicable.

    A path measurement runs from `level` (position 0) to `to_level` (position 1); `density` is that of `level`. A value
    that is not finite says that the training, or the network at that point of the path, diverged. In other
    measurements the positions are what their experiment says: a point of a plane, the middle of a histogram's bin.
    `condition` is what else sets a row apart, as `batch_size=256 lr=0.1`; empty where nothing does. See `conditions`.
    """

    setting: str
    scale: str
    experiment: str
    variant: str
    replicate: int
    rewind_step: int | None
    level: int
    density: float
    metric: str
    value: float
    to_level: int | None = None
    position: float | None = None
    position_2: float | None = None
    condition: str = ""

    @property
    def key(self) -> tuple:
        """Everything but the value: what one file may hold only once."""
        return _key(self)


COLUMNS = tuple(field.name for field in fields(Row))
"""The columns of results.csv, in order."""

_key: Callable[[Row], tuple] = attrgetter(*(name for name in COLUMNS if name not in ("value", "density")))
_cells: Callable[[Row], tuple] = attrgetter(*COLUMNS)
_OPTIONAL = ("rewind_step", "to_level", "position", "position_2")
_WHOLE = ("replicate", "rewind_step", "level", "to_level")
_REAL = ("density", "value", "position", "position_2")
_NUMBERS: dict[str, type[float] | type[int]] = dict.fromkeys(_WHOLE, int) | dict.fromkeys(_REAL, float)
_FRACTIONS = ("test_error", "train_error", "path_error", "max_error", "barrier")
_ON_A_PATH = ("path_error", "path_loss")  # whose position is a share of the way
_FIRST = {name: place for place, name in enumerate(("imp", "connectivity", "dense", "random", "reinit"))}


@functools.cache
def conditions(condition: str) -> Mapping[str, str]:
    """A row's condition as a mapping: {"batch_size": "256", "lr": "0.1"}. The only place that reads one."""
    return {name: value for name, _, value in (word.partition("=") for word in condition.split())}


def condition_text(values: Mapping[str, object]) -> str:
    """A mapping as the column `condition` has it. The only place that writes one."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def read_results(folder: str | Path) -> list[Row]:
    """The rows of `<folder>/results.csv`. StoreError, naming file and line, for a file that is missing or malformed."""
    path = Path(folder) / "results.csv"
    text = read_text(path, "run the run's command again, or name the folder of a finished run")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[tuple, Row] = {}
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise StoreError(f"{path}, line 1: columns {','.join(header)!r}; expected {','.join(COLUMNS)!r}.")
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(COLUMNS):
                raise StoreError(f"{place}: {len(cells)} cells; expected {len(COLUMNS)}.")
            row = _parse(dict(zip(COLUMNS, cells, strict=True)), place)
            if rows.setdefault(row.key, row) is not row:
                raise StoreError(f"{place}: measured a second time; expected each measurement once. Run again.")
    except csv.Error as error:
        raise StoreError(f"{path}, line {reader.line_num}: {error}; expected comma-separated values.") from None
    if not rows:
        raise StoreError(f"{path} holds no measurement; expected at least one line after its header. Run again.")
    return list(rows.values())


def write_results(folder: str | Path, rows: Iterable[Mapping], record: Mapping) -> None:
    """Write results.csv and results.json into an existing folder, each under a temporary name first.

    `rows` are mappings from the names in COLUMNS to values, `condition` being a text or a mapping; `rewind_step`,
    `to_level`, the positions and `condition` may be left out. The order of the rows does not matter: equal measurements
    and an equal record give equal bytes. In results.json, where neither nan nor infinity can be written, a value that
    is not finite is null. StoreError for a row that read_results would refuse.
    """
    measured: dict[tuple, Row] = {}
    for index, cells in enumerate(rows):
        names = (str(cells.get(name)) for name in ("experiment", "variant", "metric") if cells.get(name))
        row = _parse(cells, f"row {index} ({', '.join(names)})")
        if measured.setdefault(row.key, row) is not row:
            raise StoreError(f"row {index}: {row.metric} of {row.key} occurs a second time; expected each once.")
    if not measured:
        raise StoreError("There is no row to write; expected at least one measurement.")
    values = [dict(zip(COLUMNS, _cells(row), strict=True)) for row in sorted(measured.values(), key=_order)]
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")  # which writes None as an empty cell, and a float by its repr
    writer.writerows([COLUMNS, *(line.values() for line in values)])
    try:
        head = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"The record does not fit JSON: {error}.") from None
    finite = (line | ({} if math.isfinite(line["value"]) else {"value": None}) for line in values)
    lines = ",\n".join(json.dumps(line, ensure_ascii=False) for line in finite)
    write_text(Path(folder) / "results.csv", table.getvalue())
    write_text(Path(folder) / "results.json", f'{{"record": {head},\n"results": [\n{lines}\n]}}\n')


def read_text(path: Path, remedy: str) -> str:
    """The text of a file in UTF-8. StoreError, with what to do about it, if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist: {remedy}.") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not text in UTF-8 (byte {error.start}).") from None


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 under a temporary name, then rename it: whoever reads sees the old file or the new one."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes under a temporary name, then rename it. StoreError if the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None


def _parse(cells: Mapping, place: str) -> Row:
    """A row from cells of results.csv (strings) or from values (numbers, None)."""
    if unknown := cells.keys() - Row.__dataclass_fields__.keys():
        raise StoreError(f"{place}: unknown column {min(unknown)!r}; expected {', '.join(COLUMNS)}.")
    row = Row(**{name: _value(name, cells.get(name), place) for name in COLUMNS})
    if not 0 < row.density <= 1:
        raise StoreError(f"{place}: density {row.density} is outside (0, 1].")
    if row.metric in _ON_A_PATH and row.position is not None and not 0 <= row.position <= 1:
        raise StoreError(f"{place}: position {row.position} is outside [0, 1].")
    for name in _WHOLE:
        if (getattr(row, name) or 0) < 0:
            raise StoreError(f"{place}: {name} {getattr(row, name)} is negative.")
    if row.metric in _FRACTIONS and math.isfinite(row.value) and not 0 <= row.value <= 1:
        raise StoreError(f"{place}: {row.metric} {row.value} is outside [0, 1]; expected a fraction.")
    return row


def _value(name: str, cell: Any, place: str) -> Any:
    if name == "condition":
        return condition_text(cell) if isinstance(cell, Mapping) else str(cell or "")
    if cell is None or cell == "":
        if name in _OPTIONAL:
            return None
        raise StoreError(f"{place}: {name} is empty; expected a value.")
    kind = _NUMBERS.get(name)
    if kind is None:
        return str(cell)
    try:
        number = kind(cell)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (kind is int and not isinstance(cell, str) and number != cell):
        expected = "a number" if kind is float else "an integer"
        raise StoreError(f"{place}: {name} is {cell!r}; expected {expected}.")
    return number


def _order(row: Row) -> tuple:
    """Training before paths, the dense network before its tickets, both before their controls; then by numbers."""
    names = tuple((_FIRST.get(name, len(_FIRST)), name) for name in (row.experiment, row.variant))
    whole = (row.rewind_step, row.replicate, row.level, row.to_level)
    numbers = (-1 if number is None else number for number in whole)
    positions = (-math.inf if place is None else place for place in (row.position, row.position_2))
    return (row.setting, row.scale, names, row.condition, *numbers, row.metric, *positions)
