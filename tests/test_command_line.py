"""The console script and `python -m sparselt` are one command, which finds what stands in the current folder."""

import json
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


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sparselt r", ["report", "reproduce", "runs"]),
        ("sparselt runs ", ["export", "gc", "list", "show", "verify"]),
        ("sparselt reproduce digits", ["digits_resnet8"]),
        ("sparselt reproduce digits_resnet8 --experiments imp lan", ["landscape"]),
        ("sparselt reproduce digits_resnet8 --scale ", ["mini", "paper", "smoke"]),
        ("sparselt reproduce digits_resnet8 --set lev", ["level_0=", "levels="]),
        ("sparselt reproduce digits_resnet8 --scale smoke --dry", ["--dry-run"]),
        ("sparselt runs gc --s", ["--stopped"]),
        ("sparselt reproduce digits_resnet8 --device ", ["cpu", "cuda"]),
        ("sparselt reproduce digits_resnet8 --log t", ["tensorboard"]),
        ("sparselt nothing ", []),
        ("sparselt reproduce 'open", []),
    ],
)
def test_a_shell_completes_commands_options_and_names(capsys, monkeypatch, typed, offered):
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    assert main(["--complete"]) == 0
    assert capsys.readouterr().out.split() == offered


def test_lists_and_plans_are_json_where_asked_for(capsys, tmp_path, untimed):
    assert main(["reproduce", "--list", "--json"]) == 0
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    digits = [line for line in lines if line.get("setting") == "digits_resnet8"]
    assert [(line["scale"], line["default"]) for line in digits] == [("paper", False), ("mini", True), ("smoke", False)]
    assert {"imp", "siblings"} <= {line["experiment"] for line in lines if line["event"] == "experiment"}
    dry = ["reproduce", "digits_resnet8", "--scale", "smoke", "--experiments", "imp", "--dry-run", "--json"]
    assert main([*dry, "--out", str(tmp_path / "runs")]) == 0
    plan, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert plan["event"] == "plan" and plan["trainings"] == 30 and plan["seconds"] > 0 and end["folder"] is None
