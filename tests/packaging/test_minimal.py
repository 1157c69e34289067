"""The package beside its own dependencies alone, as `pip install sparselt` leaves it: what works, and what is named."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sparselt.errors import EXTRAS

ROOT = Path(__file__).parents[2]


def required(name: str, extra: str = "") -> set[str]:
    """The distributions that one asks for, without its extras or for one of them."""
    needs = map(Requirement, distribution(name).requires or ())
    return {n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A folder with sparselt, linked as a wheel lays it, and links to what it requires; nothing else."""
    folder, found, asked = tmp_path_factory.mktemp("alone"), set(), required("sparselt")
    while asked:
        name = asked.pop()
        found.add(name)
        asked |= required(name) - found
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
    shutil.copytree(ROOT / "sparselt", folder / "sparselt", ignore=shutil.ignore_patterns("__pycache__"))
    for home in ("kernels", "reproduce", "benchmarks"):
        (folder / "sparselt" / home).symlink_to(ROOT / home)
    return folder


def python(alone: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(alone), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    # -S: no site-packages.
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=alone, env=environment, check=check, capture_output=True, text=True)


def test_the_optimizer_of_the_readme_runs_and_nothing_else_is_there(alone):
    (example,) = re.findall(r"```python\n(import torch\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = f"""
import importlib.util, torch
others = [name for packages in {EXTRAS}.values() for name in packages if name != "jinja2"]  # which torch needs
assert not [name for name in others if importlib.util.find_spec(name)]
your_batches = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(3)]
{example}
assert (model[1].weight[~mask["1.weight"]] == 0).all() and 0.79 < mask.density < 0.81
assert Mask.load("mask.safetensors") == mask
import sparselt.analysis, sparselt.kernels, sparselt.siblings, sparselt.data, sparselt.models
"""
    python(alone, "-c", code)


@pytest.mark.parametrize(
    ("command", "extra"),
    [("sparselt.reproduce digits_resnet8", "reproduce"), ("sparselt.benchmarks masked_sgd --device cpu", "test")],
)
def test_a_command_names_the_extra_that_it_needs(alone, command, extra):
    result = python(alone, "-m", *command.split(), check=False)
    assert result.returncode == 2
    assert re.fullmatch(rf"error: .* pip install 'sparselt\[{extra}\]'\n", result.stderr), result.stderr


def test_a_function_names_the_extra_that_it_needs(alone):
    code = """
import sparselt, sparselt.runs, sparselt.report
from sparselt.data import CIFAR10, Digits
from sparselt.models import build_model
from sparselt.runs.loggers import check_installed

calls = {
    "sklearn": lambda: Digits().arrays("train"),
    "torchvision": lambda: build_model("resnet50", classes=10, channels=3, seed=0),
    "rich": lambda: sparselt.reproduce.run("digits_resnet8"),
    "wandb": lambda: check_installed("wandb"),
}
for package, call in calls.items():
    extra = "loggers" if package == "wandb" else "reproduce"
    try:
        call()
    except sparselt.SparseltError as error:
        assert f"package {package}," in str(error) and f"pip install 'sparselt[{extra}]'" in str(error), error
    else:
        raise AssertionError(package)
"""
    python(alone, "-c", code)


def test_the_named_extras_are_those_of_the_metadata():
    at_home = packages_distributions()
    for extra, packages in EXTRAS.items():
        asked = {canonicalize_name(name) for name in required("sparselt", extra)}
        installed = [package for package in packages if package in at_home]
        assert installed or extra == "loggers"  # which the tests do without
        assert all(canonicalize_name(at_home[package][0]) in asked for package in installed)
