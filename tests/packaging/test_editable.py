"""The package is found from any folder, also from one in which a folder is called like it."""

import subprocess
import sys


def test_a_folder_named_sparselt_does_not_hide_the_package(tmp_path):
    (tmp_path / "sparselt" / "runs").mkdir(parents=True)
    code = "from sparselt import Mask; import sparselt.stages, sparselt.kernels, sparselt.reproduce"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_every_room_is_there_after_importing_the_package_alone():
    rooms = (
        "analysis",
        "data",
        "experiments",
        "kernels",
        "models",
        "report",
        "reproduce",
        "runs",
        "siblings",
        "training",
    )
    code = f"import sparselt, sys; assert 'torch' not in sys.modules; [getattr(sparselt, room) for room in {rooms}]"
    subprocess.run([sys.executable, "-c", code], check=True)
