"""The table of CONTRIBUTING.md, what adding a thing costs, counts the files that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| ([^|]+) \| (`[^|]+`) \| (\d+) \| (\d+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE
)


def counted(place: str) -> tuple[int, int]:
    """Files and lines of `folder`, `file.py` or `file.py:function`; empty files do not count."""
    path, _, name = place.partition(":")
    if name:
        nodes = ast.parse((ROOT / path).read_text()).body
        (node,) = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
        return 1, node.end_lineno - node.lineno + 1
    files = sorted((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else [ROOT / path]
    lengths = [len(file.read_text().splitlines()) for file in files]
    return sum(map(bool, lengths)), sum(lengths)


def test_the_table_is_read():
    assert len(ROWS) >= 8


@pytest.mark.parametrize(("thing", "examples", "files", "lines"), ROWS, ids=[row[0] for row in ROWS])
def test_files_and_lines_of_an_addition_are_those_of_its_example(thing, examples, files, lines):
    found = [counted(place) for place in re.findall(r"`([^`]+)`", examples)]
    found_files, found_lines = map(sum, zip(*found, strict=True))
    assert int(files) == found_files and int(lines) == pytest.approx(found_lines, rel=0.2)
