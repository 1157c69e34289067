"""The console script and `python -m sparselt` are one command, which finds what stands in the current folder."""

import subprocess
import sys

import pytest

from sparselt.cli.main import main

MODULE = "def setting(scale):\n    return f'a setting of scale {scale}'\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a module of the user's, which is not on the path."""
    (tmp_path / "found_here.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    sys.modules.pop("found_here", None)


def as_console_script(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sparselt", *arguments])
    return main()


def test_the_console_script_finds_modules_of_the_current_folder(here, monkeypatch, capsys):
    assert as_console_script(monkeypatch, "reproduce", "found_here:setting") == 2
    assert "returned 'a setting of scale '; expected a sparselt" in capsys.readouterr().err


def test_a_command_without_references_leaves_the_path_alone(here, monkeypatch, capsys):
    before = list(sys.path)
    assert as_console_script(monkeypatch, "runs", "list", "nowhere") == 2
    assert sys.path == before and "error: " in capsys.readouterr().err


def test_the_package_runs_as_the_command(here):
    command = [sys.executable, "-m", "sparselt", "reproduce", "found_here:setting"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "returned 'a setting of scale '" in done.stderr
