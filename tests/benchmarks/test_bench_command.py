"""`sparselt bench` as a person runs it: one suite for real, at a thousandth of its size, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparselt.benchmarks import command
from sparselt.benchmarks.gpu import _test_files
from sparselt.benchmarks.harness import FIELDS
from sparselt.benchmarks.table import WIDTH

ROOT = Path(__file__).parents[2]

# What a bare CUDA machine lacks must not be needed. Every Python process imports a sitecustomize that it finds.
ABSENT = """
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("ffcv", "tyro", "ray"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent)
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Runs a command with Python where FFCV, tyro and Ray are missing, in a folder of its own."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(ABSENT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARSELT")}
    environment |= {"PYTHONPATH": str(folder), "SPARSELT_BENCH_SCALE": "0.001", "SPARSELT_BENCH_SECONDS": "0.005"}
    environment |= {"SPARSELT_BENCH_DEVICE": "cpu", "SPARSELT_BENCH_QUICK": "1"}

    def run(*arguments: str, cwd: Path = folder, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment | variables, capture_output=True, text=True)

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def ran(bare) -> subprocess.CompletedProcess:
    return bare("-m", "sparselt.benchmarks", "interpolate", "--quick", "--device", "cpu", "--out", "results")


@pytest.fixture(scope="module")
def result(bare, ran) -> dict:
    (path,) = (bare.folder / "results").glob("*.json")
    return json.loads(path.read_text())


def test_a_run_prints_one_table_that_fits(ran):
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= WIDTH <= 120
    assert sum(line.split()[:2] == ["case", "who"] for line in lines) == 1
    assert all(word in ran.stdout for word in ("median", "20–80%", "ratio", "of floor", "of a step", "target"))
    assert "lerp-and-mask loop" in ran.stdout and "A training step: ResNet-20" in ran.stdout


def test_a_run_writes_json_with_machine_versions_date_and_command(result):
    assert (result["format"], result["suite"], result["quick"]) == (1, "interpolate", True)
    machine = result["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", machine["date"])
    assert machine["device"] == "cpu" and machine["device_name"] and machine["cores"] >= 1 and machine["threads"] >= 1
    assert {"python", "torch", "triton", "numba", "numpy", "sparselt"} <= set(machine["versions"])
    assert result["busy"] >= 0
    assert result["command"].endswith("interpolate --quick --device cpu")
    assert all(set(record) == set(FIELDS) for record in result["records"])
    assert all(record["rounds"] >= 3 and record["median"] > 0 for record in result["records"])
    assert {"kernel", "case", "rival", "wanted", "found", "met"} <= set(result["targets"][0])


def test_files_are_named_by_device_and_date_and_nothing_else_is_left(bare, ran, result):
    begin = command.prefix(result["machine"])
    assert re.fullmatch(r"[a-z0-9-]+-\d{4}-\d\d-\d\d", begin)
    names = {f"{begin}-interpolate-quick.json"}
    names |= {f"{begin}-quick-interpolate-against-K.{kind}" for kind in ("png", "svg")}
    assert {path.name for path in (bare.folder / "results").iterdir()} == names


def test_the_other_suites_run(bare):
    names = ("masked_sgd", "magnitude_threshold", "augment", "path", "sparse_conv2d", "sparse_step")
    files = [str(command.HOME / f"bench_{name}.py") for name in names]
    done = bare("-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--benchmark-disable", *files)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_gpu_tests_are_collected_without_ffcv_tyro_and_ray(bare):
    files = map(str, _test_files())
    done = bare("-m", "pytest", "-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider", *files, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("::test_") > 20


def test_a_suite_that_fails_leaves_no_file_and_says_why(bare):
    arguments = ("augment", "--device", "cpu", "--out", "broken")
    done = bare("-m", "sparselt.benchmarks", *arguments, SPARSELT_BENCH_SCALE="wide")
    assert done.returncode == 1
    assert "error: the suite augment failed" in done.stderr and "could not convert string to float" in done.stderr
    assert not list((bare.folder / "broken").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["masked_sdg"], "unknown suite 'masked_sdg' (did you mean 'masked_sgd'?); expected any of"),
        (["masked_sgd", "--device", "tpu"], "device 'tpu' is unknown; expected cpu or cuda"),
        (["masked_sgd", "--out", "file/results"], "file/results cannot hold results: Not a directory"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cuda_is_refused_where_there_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--device", "cuda", "--out", str(tmp_path / "results")]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_console_script_knows_bench(capsys, monkeypatch):
    from sparselt.cli.main import main

    monkeypatch.setattr(sys, "argv", ["sparselt", "bench", "nothing-like-it"])
    assert main() == 2
    assert "unknown suite 'nothing-like-it'" in capsys.readouterr().err


def test_help_names_the_suites(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("masked_sgd", "interpolate", "magnitude_threshold", "augment"))
