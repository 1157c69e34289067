"""What settings, plans and the command line import stays cheap: no torch, no picture library, before it is needed."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "sklearn", "scipy", "PIL", "ffcv", "numba", "matplotlib", "pandas", "rich", "tyro"}


@pytest.mark.parametrize(
    "statement",
    [
        "from sparselt.data import CIFAR10, CIFAR100, MNIST, Digits, ImageFolder, SyntheticImages",
        "from sparselt.data import open_dataset, source_from_record; source_from_record({'kind': 'digits'})",
        "from sparselt.data.cli import info_command, parse_write, write_command",
        "from sparselt.models import MODELS, check_model, prunable_shapes",
        "from sparselt.models.initialization import Initialization, NormScale",
        "import sparselt.own, sparselt.files",
    ],
)
def test_importing_needs_no_heavy_library(statement):
    assert not HEAVY & loaded_by(statement)


def test_a_plan_of_any_setting_needs_no_torch():
    loaded = loaded_by("""
from pathlib import Path
from sparselt.cli.reproduce import Reproduce
from sparselt.experiments import known_experiments
from sparselt.experiments.lab import Lab
from sparselt.experiments.rounds import Finder, measured, plan_of
from sparselt.experiments.planning import chosen
from sparselt.reproduce import SCALES, SETTINGS, load_setting
from sparselt.runs.store import Store

for name in SETTINGS:
    for scale in SCALES:
        setting = load_setting(name, scale).checked()
        experiments, _ = chosen((), known_experiments(), setting)
        store = Store(Path("none"), writable=False)
        assert plan_of(measured(experiments, Lab(setting, read_if_made=Finder(store)))).missing(store)
""")
    assert loaded & HEAVY <= {"rich", "tyro"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
