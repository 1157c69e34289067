"""The wheel, what it installs, and the set-up's own refusals: built and installed for real, offline."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HOMES = {"sparselt": "sparselt"} | {name: f"sparselt/{name}" for name in ("kernels", "reproduce", "benchmarks")}
PIP = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet"]
PIP_TOUCHES_NOTHING_ELSE = ["--no-deps", "--no-index", "--no-cache-dir"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tree)
    for name in (*HOMES, "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    (tree / "benchmarks" / "results").mkdir(exist_ok=True)
    (tree / "benchmarks" / "results" / "machine.json").write_text("{}")
    return tree


@pytest.fixture(scope="module")
def sources(tree) -> dict[str, bytes]:
    """Every file of the source folders but benchmarks/results, by the place where it must be installed."""
    return {
        f"{home}/{path.relative_to(tree / folder).as_posix()}": path.read_bytes()
        for folder, home in HOMES.items()
        for path in (tree / folder).rglob("*")
        if path.is_file() and path.parent.name != "results"
    }


@pytest.fixture(scope="module")
def wheel(tree, sources) -> Path:
    command = [*PIP, "wheel", *PIP_TOUCHES_NOTHING_ELSE, "--no-build-isolation", "--wheel-dir", "wheels", "."]
    subprocess.run(command, cwd=tree, check=True)
    (built,) = (tree / "wheels").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", *PIP_TOUCHES_NOTHING_ELSE, "--target", target, wheel], check=True)
    return target


@pytest.fixture(scope="module")
def metadata(installed):
    (folder,) = installed.glob("sparselt-*.dist-info")
    return PathDistribution(folder)


def python(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)


def test_wheel_holds_every_source_file_with_its_bytes_and_nothing_at_top_level(wheel, sources):
    with ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    assert {name.split("/")[0] for name in held} == {"sparselt", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    ours = {name: content for name, content in held.items() if name.startswith("sparselt/")}
    assert ours.keys() == sources.keys()
    assert ours == sources


def test_every_package_is_imported_from_where_it_was_installed(installed, sources, tmp_path):
    packages = sorted(
        Path(name).parent.as_posix().replace("/", ".") for name in sources if name.endswith("__init__.py")
    )
    named = {"sparselt", "sparselt.kernels.masked_sgd", "sparselt.reproduce", "sparselt.benchmarks"}
    assert named <= set(packages)
    code = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    files = python(installed, tmp_path, "-c", code, *packages).stdout.splitlines()
    assert files == [str(installed / name.replace(".", "/") / "__init__.py") for name in packages]


def test_importing_sparselt_takes_under_two_seconds_and_nothing_heavy(installed, tmp_path):
    code = """
import sys, time
began = time.perf_counter()
import sparselt
print(time.perf_counter() - began, *(name.split(".")[0] for name in sys.modules))
"""
    seconds, *modules = python(installed, tmp_path, "-c", code).stdout.split()
    assert float(seconds) < 2
    assert not set(modules) & {
        "torch",
        "torchvision",
        "triton",
        "numba",
        "numpy",
        "ffcv",
        "matplotlib",
        "sklearn",
        "rich",
    }


def test_console_script_runs(installed, tmp_path):
    assert python(installed, tmp_path, installed / "bin" / "sparselt", "--help").stdout.startswith("usage: sparselt")


def test_an_installed_bench_finds_its_suites_from_any_folder_and_writes_there(installed, tmp_path):
    shown = python(installed, tmp_path, installed / "bin" / "sparselt", "bench", "--help").stdout
    assert "masked_sgd" in shown and "benchmark-results" in shown
    suite = installed / "sparselt" / "benchmarks" / "bench_augment.py"
    collected = python(installed, tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", suite)
    assert "test_cifar_batch" in collected.stdout


def test_metadata_states_the_ranges(metadata):
    pythons = SpecifierSet(metadata.metadata["Requires-Python"])
    assert list(pythons.filter(["3.10", "3.11", "3.14"])) == ["3.11", "3.14"]
    ranges = {requirement.name: requirement for requirement in map(Requirement, metadata.requires)}
    assert list(ranges["torch"].specifier.filter(["2.10.0", "2.11.0", "2.15.0"])) == ["2.11.0", "2.15.0"]
    for extra, name in {"reproduce": "torchvision", "test": "pytest-benchmark", "loggers": "wandb"}.items():
        assert ranges[name].marker.evaluate({"extra": extra}) and not ranges[name].marker.evaluate({"extra": ""})
    assert ranges["ffcv"].marker.evaluate({"extra": "ffcv"}) and not ranges["ffcv"].marker.evaluate({"extra": ""})


def test_constraints_pin_every_dependency_to_one_version_in_its_range(metadata):
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    asked = [need for need in map(Requirement, metadata.requires) if need.name != "sparselt"] + build_requirements()
    assert not [str(need) for need in asked if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))]


def build_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(text) for text in project["build-system"]["requires"]]


@pytest.fixture
def bare(tmp_path):
    """A copy of the set-up script and a PATH on which only a few programs are found: no apt-get, no compiler."""
    (tmp_path / "tree" / "scripts").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "tree" / "scripts")
    for program in ("bash", "env", "dirname", "mktemp", "rm", "id"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    return tmp_path


def set_up(bare: Path, interpreter: str | Path) -> subprocess.CompletedProcess:
    command = [bare / "tree" / "scripts" / "setup.sh", interpreter]
    return subprocess.run(command, env={"PATH": str(bare / "bin")}, capture_output=True, text=True)


def test_set_up_without_apt_names_the_libraries_and_the_conda_command(bare):
    result = set_up(bare, sys.executable)
    assert result.returncode != 0
    for words in ("g++", "pkg-config", "OpenCV 4", "libjpeg-turbo", "conda install -c conda-forge"):
        assert words in result.stderr
    assert sorted(path.name for path in (bare / "tree").iterdir()) == ["scripts"]


def test_set_up_refuses_an_interpreter_that_is_too_old_or_absent(bare):
    result = set_up(bare, "python3")
    assert result.returncode != 0 and "Python >= 3.11" in result.stderr
    assert sorted(path.name for path in (bare / "tree").iterdir()) == ["scripts"]
