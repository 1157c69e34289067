"""Kills a run again and again at random instants, and compares its results with those of a run left alone.

    python benchmarks/kills.py --kills 200 --out FOLDER

Digits trainings, a save every two seconds. Prints, and writes to FOLDER/kills.json: whether results.csv is equal to the
byte; how many kills fell into a training; and what was made again for each kill, in steps, and in the seconds that
these steps had taken when they were made in vain.
Not a benchmark of `sparselt bench`: nothing is timed against a competitor.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

SETTING = (
    "digits_resnet8",
    "--scale",
    "mini",
    "--experiments",
    "imp",
    "connectivity",
    "--replicates",
    "1",
    "--workers",
    "2",
)
VALUES = (
    "steps=3000",
    "milestones=1500,2250",
    "levels=6",
    "rewind_steps=0,60",
    "control_levels=6",
    "dense_replicates=2",
)
MORE = ("variants=random", "instability_levels=", "heat_map=false")
SAVE_SECONDS = 2.0
COUNT = "SPARSELT_KILLS_COUNT"


STEP = struct.Struct("<IId")
"""A step in the file of steps: a checksum of its training's name, its number, the seconds since the step before."""


def count_steps() -> None:
    """Makes every training write each of its steps to a file. Workers import this file, so theirs do so too."""
    from sparselt.training.progress import Progress

    kept, descriptor = Progress.keep, os.open(os.environ[COUNT], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    began: dict[Progress, float] = {}

    def keep(self, step, saved):
        now = time.monotonic()
        training = zlib.crc32(self._folder.parent.name.encode())
        os.write(descriptor, STEP.pack(training, step, now - began.get(self, now)))
        began[self] = now
        kept(self, step, saved)

    Progress.keep = keep  # type: ignore[method-assign]


def made_again(steps: bytes) -> tuple[int, float]:
    """The number of steps that were lost and made again later, and the seconds that the lost ones had taken."""
    latest: dict[tuple[int, int], float] = {}
    count, total = 0, 0.0
    for training, step, seconds in STEP.iter_unpack(steps):
        if (training, step) in latest:
            count, total = count + 1, total + latest[training, step]
        latest[training, step] = seconds
    return count, total


if os.environ.get(COUNT):
    count_steps()


def start(folder: Path) -> subprocess.Popen:
    arguments = [*SETTING, "--save-minutes", str(SAVE_SECONDS / 60), "--out", str(folder), "--set", *VALUES, *MORE]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--run", *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, COUNT: str(folder / "steps")},
        )


def results(folder: Path) -> bytes:
    (found,) = folder.glob("digits*/results.csv")
    return found.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    whole, killed = options.out / "whole", options.out / "killed"
    if not list(whole.glob("digits*/results.csv")):
        began = time.monotonic()
        assert start(whole).wait() == 0, f"the undisturbed run failed: see {whole / 'log.txt'}"
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(killed, ignore_errors=True)
    kills, in_training, rounds = 0, 0, 0
    while True:
        run, rounds = start(killed), rounds + 1
        before = _made(killed)
        # Wait for the first step of a training, so that most kills fall into trainings.
        while run.poll() is None and _made(killed) == before:
            time.sleep(0.01)
        try:
            run.wait(rng.uniform(0, 3 * SAVE_SECONDS) if kills < options.kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            in_training += any(killed.glob("store/unfinished/train-*"))
            continue
        assert run.returncode == 0, f"see {killed / 'log.txt'}"
        if kills >= options.kills:
            break
        # It has ended before the last kill: what was made is thrown away, and the killing goes on.
        assert results(killed) == results(whole), f"after {kills} kills the results differ"
        (killed / "steps").rename(killed / f"steps-{rounds}")
        shutil.rmtree(killed / "store")
    again = [made_again(path.read_bytes()) for path in killed.glob("steps*")]
    found = {
        "equal": results(killed) == results(whole),
        "kills": kills,
        "kills_in_training": in_training,
        "steps_again_a_kill": sum(count for count, _ in again) / max(1, kills),
        "seconds_again_a_kill": sum(seconds for _, seconds in again) / max(1, kills),
        "half_an_interval_of_two_trainings_seconds": SAVE_SECONDS,
    }
    (options.out / "kills.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _made(folder: Path) -> int:
    return (folder / "steps").stat().st_size if (folder / "steps").exists() else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        del sys.argv[1]
        runpy.run_module("sparselt.reproduce", run_name="__main__")
    main()
