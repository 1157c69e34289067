"""The command with `--executor ray`, on a Ray of its own."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from typed_command import SMALL, reproduce

pytest.importorskip("ray", reason="Ray is an extra")

OPTIONS = (*SMALL, "--executor", "ray", "--workers", "2")
LONG = (
    *("digits_resnet8", "--scale", "smoke", "--experiments", "imp", "--replicates", "1", "--executor", "ray"),
    *("--workers", "1", "--set", "steps=200000", "milestones=100000", "levels=1", "control_levels=1"),
    *("dense_replicates=1", "rewind_steps=0", "control_rewind_step=0", "variants=random"),
)


def contents(folder):
    (found,) = (folder / "runs").glob("digits_resnet8-smoke-????????")
    return [(found / name).read_bytes() for name in ("results.csv", "results.json", "figures/error_along_path.png")]


def processes(mark):
    """The numbers of the processes that have `mark` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def listening(mark):
    """The addresses, as the kernel writes them, on which these processes listen."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1].rpartition(":")[0]
    held = set()
    for process in processes(mark):
        try:
            held |= {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
        except OSError:
            continue
    return {address for name, address in sockets.items() if name in held}


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_running_and_its_command_ends_with_the_bytes_of_a_local_run(finished, tmp_path):
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "sparselt.reproduce", *OPTIONS]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "MARK": mark}, **quiet)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/store/train/*/stage.json"))) < 3:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening(mark) and listening(mark) <= loopback
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_until_gone(mark)
    done = len(list(tmp_path.glob("runs/store/train/*/stage.json")))
    result = reproduce(*OPTIONS, cwd=tmp_path, check=True)
    assert f"{14 - done} of {14 - done} trainings done" in result.stdout
    assert contents(tmp_path) == contents(finished[0])
    assert not list((tmp_path / "runs" / "store" / "unfinished").iterdir())


def saved_steps(folder):
    """The steps of the saves of the training that has not ended."""
    return sorted(int(p.name.split("-")[1]) for p in folder.glob("runs/store/unfinished/train-*/work-*/progress-*"))


def in_a_long_training(folder, mark):
    """A run in a training that is too long to end, and that has been saved because a signal asked for it."""
    command, environment = [sys.executable, "-m", "sparselt.reproduce", *LONG], {**os.environ, "MARK": mark}
    with (folder / "screen").open("w") as screen:
        run = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=screen, stderr=screen, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while not saved_steps(folder):
        assert time.monotonic() < deadline and run.poll() is None, (folder / "screen").read_text()
        if list(folder.glob("runs/store/unfinished/train-*")):
            run.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    return run


def wait_until_gone(mark):
    deadline = time.monotonic() + 180  # an agent of Ray's waits a minute for a cluster that is not there any more
    while list(processes(mark)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("send", "number", "code"), [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)])
def test_a_driver_that_is_asked_to_end_has_its_training_saved_and_says_which_command_goes_on(
    tmp_path, send, number, code
):
    # Ctrl-C reaches all processes of a terminal, SIGTERM the one that it is sent to.
    mark = uuid.uuid4().hex
    run = in_a_long_training(tmp_path, mark)
    before = saved_steps(tmp_path)[-1]
    send(run.pid, number)
    assert run.wait(60) == code, (tmp_path / "screen").read_text()
    words = (tmp_path / "screen").read_text()
    assert "this command goes on from there:\npython -m sparselt.reproduce digits_resnet8" in words
    assert "Traceback" not in words
    assert saved_steps(tmp_path)[-1] > before, "saved when asked to end, too"
    wait_until_gone(mark)


@pytest.mark.slow
def test_signals_to_end_that_do_not_cease_end_the_driver_as_one_does(tmp_path):
    mark = uuid.uuid4().hex
    run = in_a_long_training(tmp_path, mark)
    while run.poll() is None:
        run.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert run.returncode in (143, -signal.SIGTERM), "to a shell both are 143"
    assert saved_steps(tmp_path)
    wait_until_gone(mark)
