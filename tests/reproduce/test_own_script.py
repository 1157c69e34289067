"""A user's own script: what the record calls it, what a worker that cannot start says, what the report shows of it."""

import os
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from sparselt.cli.reproduce import _command
from sparselt.errors import StoreError
from sparselt.report.data import Data
from sparselt.report.others import others_tables, others_titles
from sparselt.report.results import Row
from sparselt.runs.pool import result_of
from sparselt.runs.program import own_script

RECORD = {
    "experiments": {"transfer": {"title": "Lines between tasks.", "paper": "mine"}, "imp": {"title": "", "paper": ""}}
}


@pytest.fixture
def script(monkeypatch):
    started = sys.modules["__main__"]
    monkeypatch.setattr(started, "__spec__", None)
    monkeypatch.setattr(started, "__file__", os.path.join("somewhere", "transfer.py"), raising=False)
    monkeypatch.setattr(sys, "argv", [os.path.join("somewhere", "transfer.py"), "--quick"])


def test_the_record_names_the_script_that_ran_without_its_folder(script):
    assert own_script() == "transfer.py"
    assert _command(["digits_resnet8", "--experiments", "transfer"]) == "python transfer.py --quick"


def test_the_record_names_the_module_otherwise(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "pytest", raising=False)
    assert own_script() is None
    assert _command(["digits_resnet8", "--seed", "1"]) == "python -m sparselt.reproduce digits_resnet8 --seed 1"


def test_a_worker_that_dies_under_a_script_hints_at_the_guard(script):
    future = Future()
    future.set_exception(BrokenProcessPool())
    with pytest.raises(StoreError, match=r'transfer\.py .*`if __name__ == "__main__":`.*killed while it ran .timing'):
        result_of(future, "timing")


def row(metric: str, value: float, replicate: int) -> Row:
    return Row("digits_resnet8", "smoke", "transfer", "line", replicate, 60, 1, 0.8, metric, value, to_level=2)


def test_an_experiment_of_paths_alone_has_a_table_under_its_title():
    rows = [row(metric, v, r) for metric, v in (("max_error", 0.25), ("barrier", 0.1)) for r in range(2)]
    (table,) = others_tables(Data(rows, RECORD), {})
    assert others_titles(Data(rows, RECORD), {}) == ["transfer: Lines between tasks. (mine)"]
    text = table.markdown()
    assert "largest error %" in text and "1–2" in text and "25.0" in text and "10.0" in text
    assert "| transfer | line |" in text
    assert others_tables(Data([], RECORD), {}) == others_titles(Data([], RECORD), {}) == []
    assert len(others_tables(Data(rows, {}), {})) == 1 and others_tables(Data(rows, {}), {"transfer": None}) == []
