"""What settings and the command line import stays cheap: no torch, no picture library, before it is needed."""

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
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
