"""Runs that signals stop in the middle of a training, and what the next run makes of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typed_command import reproduce

ARGUMENTS = (
    *("digits_resnet8", "--scale", "smoke", "--experiments", "imp", "--workers", "1", "--replicates", "1"),
    *("--set", "steps=2000", "milestones=1000", "levels=1", "control_levels=1", "dense_replicates=1"),
    *("rewind_steps=0", "control_rewind_step=0", "variants=random"),
)


def results(folder):
    (found,) = folder.glob("runs/digits*/results.csv")
    return found.read_bytes()


def start(folder):
    command = [sys.executable, "-m", "sparselt.reproduce", *ARGUMENTS]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def saves(folder):
    return sorted(folder.glob("runs/store/unfinished/train-*/work-*/progress-*"))


def works(folder):
    """Whether a process that is alive has claimed a training; what an earlier run has left stands there, too."""
    owners = folder.glob("runs/store/unfinished/train-*/owner-*.json")
    return any(os.path.exists(f"/proc/{json.loads(path.read_text())['process']}/fd") for path in owners)


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop_in_training(folder, number):
    """Stops a run once it has begun a training; its exit code, its last words and the steps it had saved."""
    run = start(folder)
    begun = len(list(folder.glob("runs/store/train/*")))
    wait_for(lambda: works(folder))
    time.sleep(0.5)
    asked = time.monotonic()
    run.send_signal(number)
    _, words = run.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert len(list(folder.glob("runs/store/train/*"))) >= begun
    return run.returncode, words


@pytest.mark.slow
def test_a_run_stopped_by_signals_goes_on_in_the_middle_of_its_training_to_the_same_bytes(tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    undisturbed.mkdir()
    stopped.mkdir()
    reproduce(*ARGUMENTS, cwd=undisturbed, check=True)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        returned, words = stop_in_training(stopped, number)
        assert returned == code, words
        assert "python -m sparselt.reproduce digits_resnet8 --scale smoke" in words
    assert saves(stopped), "nothing was saved"
    run = start(stopped)
    wait_for(lambda: not saves(stopped) or run.poll() is not None)
    _, words = run.communicate(timeout=120)
    assert run.returncode == 0, words
    assert results(stopped) == results(undisturbed)
    assert not os.listdir(stopped / "runs" / "store" / "unfinished")


@pytest.mark.slow
def test_many_signals_to_end_end_a_run_with_its_exit_code_and_its_last_words(tmp_path):
    run = start(tmp_path)
    wait_for(lambda: works(tmp_path))
    while run.poll() is None:
        run.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    words = run.stderr.read()
    run.stderr.close()
    assert run.returncode == 143, words
    assert "this command goes on from there" in words and "Traceback" not in words


@pytest.mark.slow
def test_a_signal_to_save_lets_the_run_go_on(tmp_path):
    run = start(tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/store/unfinished/train-*")))

    def saved():
        run.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        return bool(saves(tmp_path)) or run.poll() is not None

    wait_for(saved)
    assert run.poll() is None
    _, words = run.communicate(timeout=120)
    assert run.returncode == 0, words


def scripts_of_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "resuming.md").read_text()
    return re.findall(r"```bash\n(.*?)```", page, re.DOTALL)


@pytest.mark.slow
def test_the_slurm_script_of_the_docs_saves_and_asks_to_be_requeued(tmp_path):
    script, _ = scripts_of_the_docs()
    (tmp_path / "job.sh").write_text(script)
    for name, body in (("scontrol", 'echo "$@" > requeued'), ("python", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "ARGUMENTS": " ".join(ARGUMENTS),
        "SLURM_JOB_ID": "7",
    }
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("runs/store/unfinished/train-*")))
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    job.wait(60)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_two_tasks_of_the_array_of_the_docs_make_each_stage_once(tmp_path):
    _, script = scripts_of_the_docs()
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "job.sh").write_text(script.replace("/shared/runs", "runs"))
    quick = " ".join(ARGUMENTS).replace("steps=2000", "steps=60").replace("milestones=1000", "milestones=30")
    assert "steps=60" in quick and "milestones=30" in quick
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ARGUMENTS": quick}
    jobs = [
        subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    screens = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], screens
    made = [re.search(r"(\d+) of (\d+) trainings done in [^,.]*(?:, (\d+) by other runs)?", s) for s in screens]
    own, all_of_them, others = zip(*((int(m[1]), int(m[2]), int(m[3] or 0)) for m in made), strict=True)
    assert sum(own) == max(all_of_them) and all(map(lambda a, b, c: a + b == c, own, others, all_of_them))
