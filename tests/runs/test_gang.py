"""Trainings of several ranks as stages: lost processes, saves, signals, torchrun, and values that do not fit."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from sparselt.errors import SettingError
from sparselt.runs import worker
from sparselt.runs.devices import together
from sparselt.runs.store import Store
from sparselt.runs.worker import run_stage
from sparselt.stages import gang


@pytest.fixture
def dense(bench):
    """A training by two ranks, whose data is ready in the store."""
    stage = bench.lab(ranks=2, steps=150, milestones=(75,)).dense(0)
    bench.run(*(file.stage for file in stage.inputs.values()))
    return stage


def saves(root):
    """The steps of the saves in a store, without those before the first step."""
    found = (root / "unfinished").glob("train-*/work-*/progress-*")
    return [step for path in found if (step := int(path.name.split("-")[1]))]


def test_a_killed_rank_is_named_within_30_s_and_the_next_run_goes_on_from_the_save(bench, dense, monkeypatch):
    monkeypatch.setattr(worker, "_save_seconds", 0.2)
    killed = []

    def kill():
        while not saves(bench.store.root):
            time.sleep(0.02)
        killed.append(time.monotonic())
        os.kill(gang._ranks[1].process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = run_stage(dense, str(bench.store.root))
    took = time.monotonic() - killed[0]
    thread.join()
    assert "rank 1 of 2 was killed by signal 9" in outcome.error and outcome.transient and took < 30
    assert saves(bench.store.root)
    outcome = run_stage(dense, str(bench.store.root))
    assert not outcome.error and outcome.work == 150
    assert not saves(bench.store.root)
    undisturbed = Store(bench.store.root.with_name("undisturbed"))
    for file in dense.inputs.values():
        made = bench.store.folder(file.stage)
        shutil.copytree(made, undisturbed.folder(file.stage), dirs_exist_ok=True)
    outcome = run_stage(dense, str(undisturbed.root))
    assert not outcome.error, outcome.error
    for name in bench.store.record(dense)["files"]:
        assert (bench.store.folder(dense) / name).read_bytes() == (undisturbed.folder(dense) / name).read_bytes(), name


SMALL = (
    *("digits_resnet8", "--scale", "smoke", "--experiments", "imp", "--replicates", "1", "--ranks", "2", "--set"),
    *("steps=80", "milestones=40", "levels=1", "rewind_steps=0", "control_rewind_step=0", "variants=random"),
    *("control_levels=1", "dense_replicates=1"),
)


def test_torchrun_gives_the_bytes_of_ranks_that_a_run_starts_itself_though_it_was_stopped(tmp_path):
    ours = [sys.executable, "-m", "sparselt.reproduce", *SMALL, "--out", "ours", "--save-minutes", "0.005"]
    theirs = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    theirs += ["sparselt.reproduce", *SMALL, "--out", "theirs"]
    with subprocess.Popen(ours, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        while not saves(tmp_path / "ours" / "store") and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, words = run.communicate(timeout=60)
    assert run.returncode == 143 and "--ranks 2" in words
    assert saves(tmp_path / "ours" / "store")
    for command in (ours, theirs):
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    ((a,), (b,)) = (sorted(tmp_path.glob(f"{out}/digits*/results.csv")) for out in ("ours", "theirs"))
    assert a.read_bytes() == b.read_bytes() and b"imp" in a.read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ranks": 3}, "ranks is 3, which does not divide the batch of 64 images; expected a divisor, such as 1"),
        ({"ranks": 512, "batch_size": 512}, "ranks is 512, more than the 500 images to evaluate on"),
        ({"sync_batch_norm": True}, "sync_batch_norm is True, which one process alone ignores; give ranks, too"),
        ({"sent_gradients": "live"}, "sent_gradients is live, which one process alone ignores"),
        ({"ranks": 8, "micro_batches": 16}, "micro_batches is 16: 8 images are no multiple of it"),
    ],
)
def test_values_that_do_not_fit_the_ranks_are_named(bench, values, message):
    with pytest.raises(SettingError, match=message):
        bench.setting(**values)


def test_ranks_are_part_of_what_decides_a_training(bench):
    alone, two = bench.lab().dense(0), bench.lab(ranks=2).dense(0)
    assert alone.key != two.key and not two.joins and alone.joins
    live = bench.lab(ranks=2, sent_gradients="live").dense(0)
    assert dataclasses.replace(two.recipe, sent_gradients="live") == live.recipe and live.key != two.key


def test_devices_are_given_to_the_ranks_of_a_training_together():
    assert together(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"] and together(["7"], 1) == ["7"]
    with pytest.raises(SettingError, match="ranks is 4, but this machine has 1 GPUs to give"):
        together(["0"], 4)


def test_another_number_than_that_of_torchrun_is_named(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="torchrun has started 4 processes, but ranks is 2; give --ranks 4"):
        gang.leading(2, None).__enter__()
    with pytest.raises(SettingError, match="workers is 3; expected 1 under torchrun"):
        gang.leading(4, 3).__enter__()
