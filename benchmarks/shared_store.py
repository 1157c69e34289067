"""Several runs of one command on one store, killed at random: what is made twice, and whether the results are equal.

    python benchmarks/shared_store.py --runs 8 --seconds 300 --out FOLDER

Every few seconds one of the runs is killed with SIGKILL, workers and all, and started again. When all have ended, the
results are compared with those of a run alone, the store is deleted, and they begin anew, until the time is over. It
prints, and writes to FOLDER/shared_store.json: the rounds, the kills, the stages begun, those begun more than once, and
how many of these had a holder that was killed. --patience: of the runs, in seconds.

The file system is made as bad as it can be here, unless --plain is given: `flock` does nothing, the clocks of the runs
are up to two hours apart, a touched file and a finished stage are seen 1.5 s late (the stage at once where its folder
is listed, as on NFS), and no run can see whether the process of another has ended, as if each had its own machine.
Not a benchmark of `sparselt bench`: nothing is timed against a competitor.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ARGUMENTS = (
    *("digits_resnet8", "--scale", "mini", "--experiments", "imp", "connectivity", "--replicates", "2", "--workers"),
    *("1", "--set", "milestones=60,90", "levels=3", "rewind_steps=0,30", "control_levels=3"),
    *("dense_replicates=4", "variants=random", "instability_levels=", "heat_map=false"),
)
LOG, PLACE = "SPARSELT_SHARED_STORE_LOG", "SPARSELT_SHARED_STORE_PLACE"
_LATE = 1.5  # seconds


def log_stages() -> None:
    """Makes every worker write a line when it begins a stage that it has claimed."""
    from sparselt.runs.store import Store
    from sparselt.runs.worker import Outcome, _Job

    begun, commit = _Job.begun, Store.commit
    descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def logged_begun(stage, store, together):
        job = begun(stage, store, together)
        if not isinstance(job, Outcome):
            os.write(descriptor, f"{stage.kind}-{stage.key[:20]} {os.getpgid(0)}\n".encode())
        return job

    def logged_commit(self, stage, folder, **measured):
        commit(self, stage, folder, **measured)
        own = _own_commits()
        own.mkdir(exist_ok=True)
        (own / self.folder(stage).name).touch()

    _Job.begun, Store.commit = logged_begun, logged_commit  # type: ignore[method-assign, assignment]


def worsen_file_system(place: int) -> None:
    """Locks that do nothing, a clock of its own, late news, and no view of other machines' processes."""
    import fcntl

    from sparselt.runs import claims, store

    fcntl.flock = lambda *_: None
    apart, utime, now = 3600 * (place % 3 - 1), os.utime, time.time
    time.time = lambda: now() + apart
    os.utime = lambda path, times=None, **options: utime(path, times or (now() + apart,) * 2, **options)
    claims._machine = lambda: f"machine {place}"  # type: ignore[assignment]
    seen: dict[Path, tuple[float, os.stat_result]] = {}
    listed: dict[str, float] = {}
    stat, read, listdir = Path.stat, store.read_record, os.listdir

    def late_stat(self, **options):
        if not self.name.startswith("owner-"):
            return stat(self, **options)
        if self not in seen or now() - seen[self][0] > _LATE:
            seen[self] = now(), stat(self, **options)
        return seen[self][1]

    def noted_listdir(path="."):
        listed[str(path)] = now()
        return listdir(path)

    def late_record(path):
        record = read(path)
        if not record:
            return record
        made = stat(path).st_mtime
        # What its own machine wrote a machine sees at once, and what others wrote when it lists the folder.
        asked = listed.get(str(path.parent.parent), 0.0) > made or (_own_commits() / path.parent.name).exists()
        return record if asked or now() - made > _LATE else {}

    Path.stat, store.read_record, os.listdir = late_stat, late_record, noted_listdir  # type: ignore[method-assign]


def _own_commits() -> Path:
    """A folder with an empty file for each stage that this process group has made."""
    return Path(f"{os.environ[LOG]}-of-{os.getpgid(0)}")


if os.environ.get(LOG):
    log_stages()
    if os.environ[PLACE]:
        worsen_file_system(int(os.environ[PLACE]))


def start(folder: Path, place: int | None, options: argparse.Namespace) -> subprocess.Popen:
    """A run of the plan in a process group of its own. place: number of its machine; None: a file system as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, LOG: str(folder / "stages"), PLACE: "" if place is None else str(place)}
    command = [sys.executable, __file__, "--run", *ARGUMENTS, f"steps={options.steps}", "--out", str(folder)]
    command += ["--patience", str(options.patience)]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def results(folder: Path) -> bytes:
    (found,) = folder.glob("digits*/results.csv")
    return found.read_bytes()


def together(folder: Path, options: argparse.Namespace, rng: random.Random, until: float) -> set[int]:
    """Runs the plan in all runs to its end, and kills some of them until `until`. Returns the killed groups."""
    killed: set[int] = set()

    def begin(place: int) -> subprocess.Popen:
        return start(folder, None if options.plain else place, options)

    runs = [begin(place) for place in range(options.runs)]
    following = time.monotonic() + rng.uniform(*options.every)
    while any(run.poll() is None for run in runs):
        time.sleep(0.05)
        if following < time.monotonic() < until:
            following = time.monotonic() + rng.uniform(*options.every)
            place = rng.randrange(len(runs))
            if runs[place].poll() is None:
                os.killpg(runs[place].pid, signal.SIGKILL)
                runs[place].wait()
                killed.add(runs[place].pid)
                runs[place] = begin(place)
    assert all(run.returncode == 0 for run in runs), f"a run failed: see {folder / 'log.txt'}"
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--every", type=float, nargs=2, default=(2.0, 8.0), help="seconds between two kills")
    parser.add_argument("--patience", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300, help="of a training")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rng, alone, shared = random.Random(options.seed), options.out / "alone", options.out / "shared"
    if not list(alone.glob("digits*/results.csv")):
        assert start(alone, None, options).wait() == 0, f"the run alone failed: see {alone / 'log.txt'}"
    found = {"rounds": 0, "kills": 0, "stages": 0, "begun_again": 0, "of_these_holder_killed": 0, "equal": True}
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        shutil.rmtree(shared, ignore_errors=True)
        killed = together(shared, options, rng, until)
        begun: dict[str, list[int]] = {}
        for line in (shared / "stages").read_text().splitlines():
            stage, group = line.split()
            begun.setdefault(stage, []).append(int(group))
        made = {stage: groups for stage, groups in begun.items() if len(groups) > 1}
        found["rounds"] += 1
        found["kills"] += len(killed)
        found["stages"] += len(begun)
        found["begun_again"] += len(made)
        found["of_these_holder_killed"] += sum(set(groups[:-1]) <= killed for groups in made.values())
        found["equal"] &= results(shared) == results(alone)
        left = list((shared / "store" / "unfinished").iterdir())
        assert not left, f"left behind: {left}"
        print(json.dumps(found), flush=True)
    (options.out / "shared_store.json").write_text(json.dumps(vars(options) | found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        sys.argv = ["sparselt", *sys.argv[2:]]
        runpy.run_module("sparselt.reproduce", run_name="__main__")
    else:
        main()
