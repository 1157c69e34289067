"""A run whose disk is full in the middle, and that goes on after room has been made."""

import subprocess

import pytest
from typed_command import SMALL, reproduce


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 1 MB, and a function that changes its size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)

    if (made := mount("size=1m")).returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield disk, lambda size: mount(f"remount,size={size}")
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_clearly_and_the_next_goes_on_to_the_same_bytes(finished, small_disk):
    disk, resize = small_disk
    ended = reproduce(*SMALL, cwd=disk)
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    said = ended.stdout + ended.stderr
    assert "No space left on device" in said and "Traceback" not in said
    made = len(list(disk.glob("runs/store/*/*/stage.json")))
    assert made
    assert resize("64m").returncode == 0
    again = reproduce(*SMALL, cwd=disk)
    assert again.returncode == 0, again.stdout + again.stderr
    (made_now,) = disk.glob("runs/*/results.csv")
    undisturbed = finished[0] / made_now.relative_to(disk)  # other tests have added other runs there
    assert made_now.read_bytes() == undisturbed.read_bytes()
    assert not list((disk / "runs" / "store" / "unfinished").iterdir())
