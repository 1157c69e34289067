from pathlib import Path

import pytest
from typed_command import SMALL, reproduce


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """Folder and terminal output of a run that has ended. Tests that change the folder copy it."""
    folder = tmp_path_factory.mktemp("finished")
    result = reproduce(*SMALL, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout
