"""The example package: it runs as a script and as an installed package, and an edit of its files is noticed."""

import csv
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sparselt import own
from sparselt.experiments import Lab, option_types
from sparselt.experiments.rounds import measured, plan_of
from sparselt.experiments.trials import check_criterion
from sparselt.models import prunable_shapes
from sparselt.runs.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_experiment"
NETWORKS, CRITERIA, SOURCES = (f"own_experiment/{name}.py" for name in ("networks", "criteria", "sources"))


def python(*arguments: object, cwd: Path, path: Path) -> str:
    """What Python prints; it finds modules and installed packages in `path` too."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "runs", "*.egg-info")))


def results(folder: Path) -> Path:
    (found,) = folder.glob("runs/turned_digits-smoke-????????")
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the example, and the folder in which its script has run; not installed."""
    folder = tmp_path_factory.mktemp("own")
    package = copied(folder / "package")
    python(package / "run.py", "smoke", cwd=folder, path=package)
    return package, folder


def test_the_script_measures_and_the_page_shows_the_section(finished):
    run = results(finished[1])
    with (run / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "test_error"]
    places = Counter((row["experiment"], row["variant"], row["condition"].rpartition(":")[2]) for row in rows)
    assert places == {
        ("one_shot", "dense", ""): 2,
        ("one_shot", "pruned", "criterion=magnitude"): 4,
        ("one_shot", "pruned", "lamp"): 4,
    }
    assert {round(float(row["density"]), 2) for row in rows} == {1.0, 0.3, 0.1}
    page = (run / "report.html").read_text()
    assert "Pruning once" in page and 'id="one_shot_errors"' in page
    assert "Pruned once by lamp to 10" in page
    assert (run / "figures" / "one_shot_errors.svg").exists()


def test_installed_it_is_found_by_name_and_finds_what_the_script_made(finished, tmp_path):
    folder = finished[1]
    site = copied(tmp_path / "site")
    installed = site / "own_experiment-0.1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text(_entry_points())
    before = (results(folder) / "results.csv").read_bytes()
    (results(folder) / "results.csv").unlink()
    asked = ("turned_digits", "--scale", "smoke", "--experiments", "one_shot")
    said = python("-m", "sparselt.reproduce", *asked, cwd=folder, path=site)
    assert "Everything is in the store" in " ".join(said.split())
    assert (results(folder) / "results.csv").read_bytes() == before
    listed = python("-m", "sparselt.reproduce", "--list", cwd=folder, path=site)
    assert "one_shot" in listed and "turned_digits: own_experiment.settings:turned_digits" in listed


def _entry_points() -> str:
    """What pip would write of the package's pyproject.toml."""
    import tomllib

    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {reference}" for name, reference in points.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture
def plan(monkeypatch):
    """The plan of a copy of the example, as a new process would make it."""

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "own_experiment"]:
            del sys.modules[name]
        for cached in (own.entry_points, prunable_shapes, check_criterion):
            cached.cache_clear()

    def planned(package: Path):
        forget()
        with monkeypatch.context() as context:
            context.syspath_prepend(package)
            experiments = {"one_shot": own.resolve("own_experiment.one_shot.experiment:EXPERIMENT")}
            setting = own.resolve_callable("own_experiment.settings:turned_digits")("smoke")
            setting = setting.with_options(option_types(experiments)).checked()
            return plan_of(measured(experiments, Lab(setting)))

    yield planned
    forget()


@pytest.mark.parametrize(
    ("file", "anew"),
    [
        ("run.py", {}),
        ("own_experiment/settings.py", {}),
        ("own_experiment/one_shot/experiment.py", {}),
        ("own_experiment/one_shot/report.py", {}),
        (CRITERIA, {"prune_by_criterion": 4, "train": 4}),
        (NETWORKS, {"prune": 4, "prune_by_criterion": 4, "train": 10}),
        (SOURCES, {"dataset": 1, "resident": 1, "prune": 4, "prune_by_criterion": 4, "train": 10}),
    ],
)
def test_an_edit_makes_anew_what_depends_on_the_file_and_nothing_else(finished, plan, tmp_path, file, anew):
    package = copied(tmp_path / "package")
    store = Store(finished[1] / "runs" / "store")
    assert not plan(package).missing(store)
    with (package / file).open("a") as opened:
        opened.write("# edited\n")
    assert Counter(stage.kind for stage in plan(package).missing(store)) == anew


def test_an_edited_network_gives_other_numbers(finished, tmp_path):
    package, folder = copied(tmp_path / "package"), finished[1]
    before = (results(folder) / "results.csv").read_bytes()
    text = (package / NETWORKS).read_text()
    (package / NETWORKS).write_text(text.replace("24", "8"))
    try:
        python(package / "run.py", "smoke", cwd=folder, path=package)
        assert (results(folder) / "results.csv").read_bytes() != before
    finally:
        (results(folder) / "results.csv").write_bytes(before)
