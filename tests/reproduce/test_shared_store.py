"""Several runs of one command on one store. The long version is benchmarks/shared_store.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "benchmarks" / "shared_store.py"


@pytest.mark.slow
def test_four_runs_of_which_some_are_killed_share_the_work_and_end_with_the_bytes_of_one_alone(tmp_path):
    options = ("--runs", "4", "--seconds", "12", "--every", "4", "6", "--steps", "120", "--patience", "8")
    made = subprocess.run(
        [sys.executable, HARNESS, *options, "--out", tmp_path], capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stdout + made.stderr
    found = json.loads((tmp_path / "shared_store.json").read_text())
    assert found["equal"] and found["kills"] >= 1 and found["rounds"] >= 1
    assert found["begun_again"] == found["of_these_holder_killed"]
