"""The package is found from any folder, also from one in which a folder is called like it."""

import subprocess
import sys


def test_a_folder_named_sparselt_does_not_hide_the_package(tmp_path):
    (tmp_path / "sparselt" / "runs").mkdir(parents=True)
    code = "from sparselt import Mask; import sparselt.runs.stage, sparselt.kernels, sparselt.reproduce"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
