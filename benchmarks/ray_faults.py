"""A run on a Ray cluster of several local nodes, in which workers, nodes and the run itself are killed at random.

    python benchmarks/ray_faults.py --kills 8 --out FOLDER

Every few seconds of training one of these is killed with SIGKILL, in turn: a worker process, the Ray actor that holds
it, a node with all that runs on it (another joins), the run itself (the same command is started again). Only what holds
a training is killed, and a kill counts only if that training had not ended. Every step makes a pause, so that a
training takes several saves on any machine. If the run ends before the last kill, it begins again in an empty store.

Prints, and writes to FOLDER/ray_faults.json: the kills; whether results.csv is equal to the byte with that of
`--executor local`; and the most seconds of training that were made again after a kill, beside the time between two
saves. Ends with code 1 if a kill did not happen, a training that was killed was not taken up, the results differ, or
more than an interval was made again. Not a benchmark of `sparselt bench`: nothing is timed against a competitor.
"""

import argparse
import json
import os
import platform
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ARGUMENTS = (
    *("digits_resnet8", "--scale", "mini", "--experiments", "imp", "--replicates", "1", "--workers", "2"),
    *("--set", "milestones=150,225", "levels=2", "rewind_steps=0,30", "control_levels=2", "dense_replicates=2"),
    *("variants=random",),
)
STEPS = "SPARSELT_RAY_FAULTS_STEPS"
SAVE_SECONDS = 2.0
STEP_SECONDS = 0.02  # at least, so that a training of 400 steps takes four saves
NODES, CORES = 3, 1
_LOOK_SECONDS = 0.1
_END_SECONDS = 60.0
KINDS = ("worker", "actor", "node", "run")


Row = tuple[float, int, str, int]
"""A step: when it began, its process, its training, its number."""


def log_steps() -> None:
    """Makes every training pause and write a line before each step, see `Row`."""
    from sparselt.training.progress import Progress

    kept, descriptor = Progress.keep, os.open(os.environ[STEPS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def keep(self, step, saved):
        time.sleep(STEP_SECONDS)
        training = self._folder.parent.name
        os.write(descriptor, f"{time.monotonic()} {os.getpid()} {training} {step}\n".encode())
        kept(self, step, saved)

    Progress.keep = keep  # type: ignore[method-assign]


if os.environ.get(STEPS):
    log_steps()


def start(folder: Path, options: argparse.Namespace, *more: str) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--run", *ARGUMENTS, f"steps={options.steps}", "--out", str(folder)]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            [*command, "--save-minutes", str(SAVE_SECONDS / 60), *more], stdout=log, stderr=log, start_new_session=True
        )


def results(folder: Path) -> bytes:
    (found,) = folder.glob("digits*/results.csv")
    return found.read_bytes()


def steps_in(file: Path) -> list[Row]:
    rows = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
    return [(float(when), int(process), training, int(step)) for when, process, training, step in rows]


def made_again(rows: list[Row]) -> list[float]:
    """Seconds of training that were made again, one number for each training that another process went on with."""
    lost: list[float] = []
    last: dict[str, tuple[float, int]] = {}
    when_made: dict[tuple[str, int], float] = {}
    for when, process, training, step in rows:
        before = last.get(training)
        if before is not None and before[1] != process:
            lost.append(max(0.0, before[0] - when_made.get((training, step), before[0])))
        last[training] = when, process
        when_made[training, step] = when
    return lost


def longest_step(rows: list[Row]) -> float:
    """The most seconds between two steps of one process in one training; a save among them counts."""
    last: dict[tuple[int, str], float] = {}
    longest = 0.0
    for when, process, training, _ in rows:
        longest = max(longest, when - last.get((process, training), when))
        last[process, training] = when
    return longest


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def holders(process: int) -> list[int]:
    """Its parent, the parent of that, and so on."""
    found: list[int] = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


class Faults:
    """Kills of one run after another, on one cluster.

    until: when the kills must have happened. kills: those that have, by kind. killed_trainings: those that they ended.
    lost: the seconds made again for each training that another process went on with. longest: see `longest_step`.
    """

    def __init__(self, options: argparse.Namespace, cluster, folder: Path):
        self._options, self._cluster, self._folder = options, cluster, folder
        self._rng = random.Random(options.seed)
        self.until = time.monotonic() + options.seconds
        self._more = ("--executor", "ray", "--ray-address", cluster.address)
        self.kills = dict.fromkeys(KINDS, 0)
        self.lost: list[float] = []
        self.killed_trainings, self.longest = 0, 0.0

    @property
    def left(self) -> int:
        return self._options.kills - sum(self.kills.values())

    def run_once(self) -> bool:
        """Makes the run from an empty store. While kills are left, kills a process of the kind whose turn it is.

        Returns whether the run has ended by itself; if not, the time was over.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._start()
        following = self._rng.uniform(*self._options.every)  # seconds of training
        while self._run.poll() is None:
            time.sleep(_LOOK_SECONDS)
            working = self._working()
            following -= _LOOK_SECONDS * bool(working)
            if time.monotonic() > self.until and self.left:
                self._run.kill()
                self._run.wait()
                return False
            if following <= 0 and working and self.left:
                kind = KINDS[sum(self.kills.values()) % len(KINDS)]
                if hit := self._kill(kind, working):
                    following = self._rng.uniform(*self._options.every)
                    self.kills[kind] += 1
                    self.killed_trainings += hit
                    print(f"{kind} killed in {hit} training{'s' * (hit > 1)}", flush=True)
        assert self._run.returncode == 0, f"the run failed: see {self._folder / 'log.txt'}"
        assert not list((self._folder / "store" / "unfinished").iterdir()), "something was left behind"
        rows = steps_in(self._folder / "steps")
        self.lost += made_again(rows)
        self.longest = max(self.longest, longest_step(rows))
        return True

    def _start(self) -> None:
        self._run = start(self._folder, self._options, *self._more)

    def _working(self) -> dict[int, str]:
        """The training that each process works on, if it has not ended."""
        at_work = {process: training for _, process, training, _ in steps_in(self._folder / "steps")}
        return {process: name for process, name in at_work.items() if not ended(process) and not self._made(name)}

    def _made(self, training: str) -> bool:
        return (self._folder / "store" / "train" / training.removeprefix("train-") / "stage.json").exists()

    def _kill(self, kind: str, working: dict[int, str]) -> int:
        """Kills one that holds a training, and waits until its processes have ended. Returns how many trainings they
        had not finished."""
        victims = set(working)
        try:
            if kind == "run":
                self._run.kill()
                self._run.wait()
                self._start()
            elif kind == "node":
                nodes = {node.all_processes["raylet"][0].process.pid: node for node in self._cluster.worker_nodes}
                on_node = {process: [pid for pid in holders(process) if pid in nodes] for process in working}
                chosen = sorted({raylets[0] for raylets in on_node.values() if raylets})
                if not chosen:  # all are on the first node, which cannot leave
                    return 0
                raylet = self._rng.choice(chosen)
                victims = {process for process, raylets in on_node.items() if raylet in raylets}
                self._cluster.remove_node(nodes[raylet], allow_graceful=False)
                self._cluster.add_node(num_cpus=CORES, node_name=f"node-{NODES + self.kills['node']}")
            else:
                process = self._rng.choice(sorted(working))
                victims = {process}
                os.kill(process if kind == "worker" else holders(process)[0], signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):  # it has ended meanwhile
            return 0
        until = time.monotonic() + _END_SECONDS
        while not all(map(ended, victims)):
            assert time.monotonic() < until, f"{kind} was killed, and its processes work on: {victims}"
            time.sleep(0.01)
        return sum(not self._made(working[process]) for process in victims)


def failures(found: dict) -> list[str]:
    """Sentences that say what is wrong with a result; none if nothing is."""
    kills, least = found["kills"], found["kills_asked"] // len(KINDS)
    wrong = [f"{kind}: {count} kills; expected {least} or more" for kind, count in kills.items() if count < least]
    if sum(kills.values()) < found["kills_asked"]:
        # The last run was stopped then, and there is nothing else to judge.
        return [*wrong, f"{sum(kills.values())} of {found['kills_asked']} kills happened in time; give more --seconds"]
    if found["trainings_taken_up_again"] < found["trainings_killed"]:
        wrong.append(
            f"{found['trainings_killed']} trainings were killed, and {found['trainings_taken_up_again']} taken up again"
        )
    most = found["save_seconds"] + 2 * found["longest_step_seconds"]
    if found["most_seconds_made_again"] > most:
        wrong.append(f"{found['most_seconds_made_again']:.2f} s were made again; expected at most {most:.2f}")
    if not found["equal"]:
        wrong.append("results.csv differs from that of --executor local")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help=f"in turn: {', '.join(KINDS)}; at least 4")
    parser.add_argument("--seconds", type=float, default=900, help="until when the kills must have happened")
    parser.add_argument(
        "--every", type=float, nargs=2, default=(3.0, 7.0), help="seconds of training between two kills"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400, help="of a training")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.kills < len(KINDS):
        parser.error(f"--kills is {options.kills}; expected at least {len(KINDS)}, one of each kind")
    local, faulty = options.out / "local", options.out / "faulty"
    if not list(local.glob("digits*/results.csv")):
        assert start(local, options).wait() == 0, f"the local run failed: see {local / 'log.txt'}"
    # Nodes and runs inherit these; the first keeps Ray to loopback, before it is imported.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", STEPS: str(faulty / "steps")}
    from ray.cluster_utils import Cluster

    from sparselt.benchmarks.machine import commit, processor

    cluster = Cluster()
    for place in range(NODES):
        cluster.add_node(
            num_cpus=CORES, node_name=f"node-{place}", **({"include_dashboard": False} if not place else {})
        )
    faults, equal = Faults(options, cluster, faulty), []
    while faults.left and faults.run_once():
        equal.append(results(faulty) == results(local))
    cluster.shutdown()
    found = {
        "kills_asked": options.kills,
        "kills": faults.kills,
        "trainings_killed": faults.killed_trainings,
        "trainings_taken_up_again": len(faults.lost),
        "most_seconds_made_again": max(faults.lost, default=0.0),
        "longest_step_seconds": faults.longest,
        "save_seconds": SAVE_SECONDS,
        "runs_to_the_end": len(equal),
        "equal": all(equal),
    }
    wrong = failures(found)
    about = {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit(),
        "command": f"python benchmarks/ray_faults.py --kills {options.kills} --steps {options.steps} --out FOLDER",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "ray")},
        "nodes": NODES,
        "every": options.every,
        "seed": options.seed,
        "step_seconds_at_least": STEP_SECONDS,
    }
    (options.out / "ray_faults.json").write_text(json.dumps(about | found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    for sentence in wrong:
        print(f"failed: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        sys.argv = ["sparselt", *sys.argv[2:]]
        runpy.run_module("sparselt.reproduce", run_name="__main__")
    else:
        sys.exit(main())
