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


def test_a_run_estimates_without_torch_in_its_own_process(tmp_path):
    loaded = loaded_by(f"""
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from sparselt.experiments.lab import Lab
from sparselt.reproduce import load_setting
from sparselt.runs.estimate import estimate
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.training.seconds import Timing

def submit(function, *arguments):
    future = Future()
    future.set_result(Timing(0.5, 0.01, 0.0))
    return future

plan = Plan([Lab(load_setting("digits_resnet8", "smoke").checked()).dense(0)])
workers = SimpleNamespace(count=2, submit=submit)
assert estimate(plan, Store(Path({str(tmp_path)!r})), 8, 500, workers).of(plan.stages[-1]) > 0
""")
    assert "torch" not in loaded


def test_a_training_on_the_digits_needs_neither_the_compiler_nor_scikit_learn(tmp_path):
    loaded = loaded_by(f"""
from pathlib import Path
from sparselt.experiments.lab import Lab
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.runs.worker import run_stage

store = Store(Path({str(tmp_path)!r}))
for stage in Plan([Lab(load_setting("digits_resnet8", "smoke").checked()).dense(0)]).missing(store):
    assert not run_stage(stage, str(store.root)).error
""")
    assert "torch" in loaded and not {"torch._dynamo", "sklearn"} & loaded


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
