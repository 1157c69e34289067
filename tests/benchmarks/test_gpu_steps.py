"""`make gpu`: its steps, rehearsed without a GPU."""

import re
import sys
import tarfile
import time
from pathlib import Path

import pytest

from sparselt.benchmarks import gpu

TESTS = Path(__file__).parents[1]


def test_every_file_with_gpu_tests_is_a_part_of_its_own_and_captures_come_last():
    files = gpu._test_files()
    assert len(set(files)) == len(files)
    marked = {path for path in TESTS.rglob("test_*.py") if "pytest.mark." + "gpu" in path.read_text()}
    assert set(files) == marked
    assert [path.name for path in files[-2:]] == ["test_captured_on_gpu.py", "test_captured_stages_on_gpu.py"]
    assert {TESTS / name for name in gpu._TEST_FILES} <= set(files)


def test_the_steps_together_run_every_suite_once(tmp_path):
    parts = [name for step in gpu.STEPS for name, _ in gpu._parts(step, "cuda", tmp_path)]
    assert len(set(parts)) == len(parts)
    assert {"engine", "bench-data", "bench-masked_sgd", "bench-interpolate", "bench-path"} <= set(parts)


def test_a_part_that_fails_or_takes_too_long_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    script = {
        "first": "print('1.5 ms')",
        "second": "import sys; print('wrong'); sys.exit(3)",
        "third": "import time; time.sleep(60)",
        "fourth": "print('last')",
    }
    monkeypatch.setattr(
        gpu, "_parts", lambda step, device, out: [(n, [sys.executable, "-c", s]) for n, s in script.items()]
    )
    monkeypatch.setattr(gpu, "_PART_SECONDS", 2.0)
    assert gpu.main(["kernels", "--out", str(tmp_path)]) == 1
    printed = re.sub(r"\d+ s\n", "N s\n", capsys.readouterr().out)
    assert printed == (
        "first: ok, N s\n    1.5 ms\nsecond: failed (3), N s\n    wrong\nthird: cut after 2 s, N s\n\nfourth: ok, N s\n"
        "    last\n"
    )
    with tarfile.open(tmp_path / "gpu-results.tar.gz") as archive:
        assert {"summary.txt", "first.log", "fourth.log"} <= set(archive.getnames())


def test_what_a_cut_part_has_started_ends_with_it(tmp_path):
    child = "import time; time.sleep(60)"
    script = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid); p.wait()"
    line, fine = gpu._run("cut", [sys.executable, "-u", "-c", script], 3.0, tmp_path)
    assert line.startswith("cut: cut after 3 s") and not fine
    process = Path("/proc", (tmp_path / "cut.log").read_text().strip(), "status")
    deadline = time.monotonic() + 20  # a killed process takes a moment to end
    while _runs(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(status: Path) -> bool:
    try:
        return "Z (zombie)" not in status.read_text()
    except OSError:
        return False


def test_a_step_whose_time_is_over_says_what_was_not_begun(tmp_path):
    line, fine = gpu._run("late", [sys.executable], 0.0, tmp_path)
    assert line == "late: not begun, the step's time was over" and not fine


def test_an_unknown_step_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["kernel", "--out", str(tmp_path)])
    assert "unknown step kernel; expected some of tests, engine, kernels, loader" in capsys.readouterr().err
