"""Runs whose disk is full or becomes read-only in the middle, and that go on after that."""

import contextlib
import subprocess
import sys
import time

import pytest
from typed_command import SMALL, reproduce

from sparselt.errors import StoreError
from sparselt.runs.claims import Claims
from sparselt.runs.inventory import note_plan
from sparselt.runs.store import Store


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 1 MB, and a function that changes its size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)

    if (made := mount("size=1m")).returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield disk, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", disk], check=True)


def test_a_store_that_is_read_only_before_the_first_claim_is_named(small_disk):
    disk, remount = small_disk
    store = Store(disk / "store")
    assert remount("ro").returncode == 0
    for write in (lambda: store.present("run").__enter__(), lambda: note_plan(store, "run", (), "", "stopped")):
        with pytest.raises(StoreError, match=rf"{disk}/store.* cannot be written.*Read-only file system"):
            write()
    with pytest.raises(StoreError, match="Read-only file system"):
        store.check_writable()


def test_a_full_disk_is_not_taken_for_another_process(small_disk):
    disk, _ = small_disk
    claims = Claims(disk / "unfinished")
    begun = claims.take("begun")
    (begun.folder / "progress-1").write_text("")
    begun.leave(keep=True)
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for name in ("begun", "new"):
        with pytest.raises(OSError, match="No space left"):
            claims.take(name)
    assert [path.name for path in (disk / "unfinished").iterdir()] == ["begun"]
    filler.unlink()
    assert (claims.take("begun").folder / "progress-1").exists() and claims.take("new")


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_ends_a_run_at_once_and_the_next_goes_on_to_the_same_bytes(finished, small_disk):
    disk, remount = small_disk
    assert remount("size=64m").returncode == 0
    run = subprocess.Popen(
        [sys.executable, "-m", "sparselt.reproduce", *SMALL],
        cwd=disk,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not list(disk.glob("runs/store/unfinished/train-*/owner-*")) and run.poll() is None:
        time.sleep(0.01)
    assert remount("ro").returncode == 0
    _, said = run.communicate(timeout=30)
    assert run.returncode == 2 and b"Traceback" not in said
    assert b"runs/store cannot be written (Read-only file system); make it writable" in said
    assert remount("rw").returncode == 0
    again = reproduce(*SMALL, cwd=disk)
    assert again.returncode == 0, again.stdout + again.stderr
    (made_now,) = disk.glob("runs/*/results.csv")
    assert made_now.read_bytes() == (finished[0] / made_now.relative_to(disk)).read_bytes()


@pytest.mark.slow
def test_a_full_disk_ends_a_run_clearly_and_the_next_goes_on_to_the_same_bytes(finished, small_disk):
    disk, remount = small_disk
    ended = reproduce(*SMALL, cwd=disk)
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    said = ended.stdout + ended.stderr
    assert "No space left on device" in said and "Traceback" not in said
    made = len(list(disk.glob("runs/store/*/*/stage.json")))
    assert made
    assert remount("size=64m").returncode == 0
    again = reproduce(*SMALL, cwd=disk)
    assert again.returncode == 0, again.stdout + again.stderr
    (made_now,) = disk.glob("runs/*/results.csv")
    undisturbed = finished[0] / made_now.relative_to(disk)
    assert made_now.read_bytes() == undisturbed.read_bytes()
    assert not list((disk / "runs" / "store" / "unfinished").iterdir())
