"""The snippets of docs/your-own.md are a package that runs as the page says."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparselt.own import resolve

PAGE = (Path(__file__).parents[2] / "docs" / "your-own.md").read_text()
SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The page's files, each where its first line says, and what pip would write of the entry points."""
    folder = tmp_path_factory.mktemp("page")
    for language, text in SNIPPETS:
        if language == "python":
            name = re.match(r"# (\S+\.py)\n", text)
            assert name, f"a snippet does not say which file it is: {text[:60]}"
            file = folder / name[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        elif language == "toml":
            installed = folder / "my_package-1.dist-info"
            installed.mkdir()
            groups = text.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
            (installed / "entry_points.txt").write_text(groups)
    return folder


def python(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr


def rows(folder: Path, experiment: str) -> list[dict]:
    found = []
    for path in folder.glob("runs/stripes-smoke-*/results.csv"):
        with path.open() as file:
            found += [row for row in csv.DictReader(file) if row["experiment"] == experiment]
    return found


def test_the_script_of_the_page_runs(package):
    python(package, "run.py")
    found = rows(package, "rates")
    assert {(row["variant"], row["condition"]) for row in found} == {
        (variant, f"rate={rate}") for variant in ("dense", "pruned") for rate in ("0.03", "0.1")
    }
    (page,) = package.glob("runs/*/report.html")
    assert 'id="rates"' in page.read_text() and "At rate 0.1 the dense network errs on" in page.read_text()
    (run,) = page.parent.glob("record.json")
    assert "my_package.criteria:saliency" in run.read_text()


def test_the_commands_of_the_page_find_its_entry_points(package):
    commands = [line.split()[1:] for language, text in SNIPPETS if language == "sh" for line in text.splitlines()]
    assert len(commands) == 2
    for command in commands:
        python(package, *command, "--scale", "smoke", "--dry-run")


def test_the_stage_of_the_page_measures(package, bench, monkeypatch):
    monkeypatch.syspath_prepend(package)
    lab = bench.lab()
    (measurement, *_) = resolve("my_package.norms:EXPERIMENT")(lab)
    bench.run(*measurement.stages)
    (row,) = measurement.rows(bench.store.read)
    weights = bench.load(lab.dense(0).final)
    assert row["metric"] == "norm" and row["density"] == 1
    assert row["value"] == pytest.approx(sum(w.double().square().sum().item() for w in weights.values()) ** 0.5)
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]
