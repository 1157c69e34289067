"""What a stage's function is given, and how it writes what is not weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """Everything a stage's function is given."""

    spec: Mapping[str, Any]
    inputs: Mapping[str, Path]
    outputs: frozenset[str]
    folder: Path
    report: Report
    local: Mapping[str, Any]


def write_json(path: Path, value: Any) -> None:
    """Writes `value` where a stage's other outputs stand; the store moves them into place together."""
    path.write_text(json.dumps(value, indent=1))
