"""A run tells loggers and scripts what it does, and no logger can stop it or keep it waiting."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typed_command import reproduce

from sparselt.experiments.display import RoundDisplay
from sparselt.experiments.events import Events
from sparselt.runs import loggers
from sparselt.runs.estimate import Speed
from sparselt.runs.loggers import LoggerProcess
from sparselt.runs.store import Store

pytest.importorskip("wandb", reason="the extra loggers is not installed")
event_files = pytest.importorskip(
    "tensorboard.backend.event_processing.event_file_loader", reason="the extra loggers is not installed"
)

TINY = (
    *("digits_resnet8", "--scale", "smoke", "--replicates", "1", "--workers", "1", "--experiments", "imp"),
    *("--set", "steps=30", "milestones=20", "rewind_steps=0", "variants=random", "instability_levels="),
)


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of a run that was logged, and its lines of JSON."""
    cwd = tmp_path_factory.mktemp("logged")
    result = reproduce(*TINY, "--json", "--log", "tensorboard", "wandb", cwd=cwd, check=True, WANDB_MODE="offline")
    assert "dropped" not in result.stderr
    (folder,) = (cwd / "runs").glob("digits_*")
    return folder, list(map(json.loads, result.stdout.splitlines()))


def trained(folder: Path) -> dict[tuple, float]:
    """The measurements of trainings in results.csv."""
    names = ("variant", "replicate", "rewind_step", "level", "metric")
    rows = csv.DictReader((folder / "results.csv").open())
    return {tuple(row[name] for name in names): float(row["value"]) for row in rows if not row["to_level"]}


def test_lines_of_json_hold_every_training_and_the_end(logged):
    folder, events = logged
    told = {
        tuple("" if e[n] is None else str(e[n]) for n in ("variant", "replicate", "rewind_step", "level", "metric")): e
        for e in events
        if e["event"] == "measured"
    }
    assert {place: event["value"] for place, event in told.items()} == trained(folder) != {}
    assert events[0]["event"] == "plan" and events[0]["trainings"] == 5
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["trained"] == 5 and progress[-1]["done"] == pytest.approx(1)
    assert events[-1] == {"event": "end", "folder": f"runs/{folder.name}", "failed": []}


def test_tensorboard_holds_every_training(logged):
    folder, _ = logged
    found = {}
    for path in (folder / "tensorboard").rglob("events.*"):
        for event in event_files.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                place = path.parent.name, event.step, value.tag
                assert place not in found or path.parent.name == "progress"
                found[place] = value.simple_value
    for (variant, replicate, rewind_step, level, metric), value in trained(folder).items():
        rewind = f", rewind {rewind_step}" * bool(rewind_step)
        curve = f"imp, {variant}{rewind}, replicate {replicate}"
        assert found[curve, int(level), metric] == pytest.approx(value, rel=1e-6)
    assert any(curve == "progress" and tag == "trained" and value == 5 for (curve, _, tag), value in found.items())


def test_wandb_holds_every_training_offline(logged):
    folder, _ = logged
    (run,) = (folder / "wandb").glob("offline-run-*")
    (written,) = run.glob("*.wandb")
    content = written.read_bytes()
    assert b"test_error/imp, imp, rewind 0, replicate 0" in content and folder.name.encode() in content


def test_a_logger_changes_no_result(logged):
    folder, _ = logged
    before = (folder / "results.csv").read_bytes()
    reproduce(*TINY, cwd=folder.parents[1], check=True)
    assert (folder / "results.csv").read_bytes() == before


class Raising:
    def __init__(self, folder, name, config):
        pass

    def log(self, event):
        raise RuntimeError("no such project")

    def close(self):
        pass


class Hanging(Raising):
    def log(self, event):
        time.sleep(600)


class Killed(Raising):
    def log(self, event):
        import os

        os.kill(os.getpid(), 9)


def telling(logger: type, folder: Path) -> tuple[Events, Console]:
    console = Console(record=True, width=200)
    display = RoundDisplay(console, Speed({}, ""), 1)
    return Events(display, console, Store(folder), [LoggerProcess(logger, folder, "run", {})]), console


@pytest.mark.parametrize(("logger", "reason"), [(Raising, "RuntimeError: no such project"), (Killed, "code -9")])
def test_a_logger_that_ends_is_named_once_and_dropped(tmp_path, logger, reason):
    events, console = telling(logger, tmp_path)
    deadline = time.monotonic() + 60
    while events._sinks and time.monotonic() < deadline:
        events.tell("progress", done=0.0)
        time.sleep(0.1)
    events.tell("progress", done=1.0)
    events.close()
    printed = console.export_text()
    assert printed.count(f"{logger.__name__} is dropped, the run goes on") == printed.count(reason) == 1


def test_a_logger_that_hangs_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_CLOSE_SECONDS", 0.5)
    events, console = telling(Hanging, tmp_path)
    began = time.monotonic()
    for _ in range(2000):  # far more than a pipe holds
        events.tell("progress", text="x" * 100)
    events.close()
    assert time.monotonic() - began < 10
    assert "did not end in" in console.export_text()


def test_a_reader_that_closes_the_lines_does_not_end_the_run():
    code = """
import sys, time
from sparselt.experiments.events import JsonLines
lines = JsonLines()
lines.log({"event": "plan"})
sys.stdin.readline()
lines.log({"event": "progress"})
assert "standard output" in lines.error() and lines.error() is None
lines.log({"event": "progress"})
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert json.loads(process.stdout.readline()) == {"event": "plan"}
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(60) == 0, process.stderr.read()


def test_a_shell_completes_options_and_values():
    code = "from sparselt.cli.main import main; main(['reproduce', '--tyro-print-completion', 'bash'])"
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    asked = """
complete -p sparselt
COMP_WORDS=(sparselt reproduce digits_resnet8 --log "") COMP_CWORD=4
_tyro_sparselt_reproduce; echo "${COMPREPLY[@]}"
"""
    found = subprocess.run(["bash", "-c", script + asked], capture_output=True, text=True, check=True).stdout
    assert found == "complete -F _tyro_sparselt_reproduce sparselt\ntensorboard wandb\n"
