"""A run on a Ray cluster of several local nodes, in which workers, nodes and the run itself are killed at random.

    python benchmarks/ray_faults.py --seconds 240 --out FOLDER

Every few seconds of training one of these is killed with SIGKILL, in turn: a worker process, the Ray actor that holds
it, a node with all that runs on it (another joins), the run itself (the same command is started again). After that time
the run may end. Prints, and writes to FOLDER/ray_faults.json: the kills; whether results.csv is equal to the byte with
that of `--executor local`; and the most seconds of training that were made again after a kill, beside the time between
two saves. Not a benchmark of `sparselt bench`: nothing is timed against a competitor.
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
    *("digits_resnet8", "--scale", "mini", "--experiments", "imp", "--replicates", "1", "--workers", "2"),
    *("--set", "milestones=150,225", "levels=2", "rewind_steps=0,30", "control_levels=2", "dense_replicates=2"),
    *("variants=random",),
)
STEPS = "SPARSELT_RAY_FAULTS_STEPS"
SAVE_SECONDS = 2.0
NODES, CORES = 3, 1
KINDS = ("worker", "actor", "node", "run")


def log_steps() -> None:
    """Makes every training write a line before each step: when, process, training, step."""
    from sparselt.training.progress import Progress

    kept, descriptor = Progress.keep, os.open(os.environ[STEPS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def keep(self, step, saved):
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


def steps_in(file: Path) -> list[tuple[float, int, str, int]]:
    rows = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
    return [(float(when), int(process), training, int(step)) for when, process, training, step in rows]


def made_again(rows: list[tuple[float, int, str, int]]) -> list[float]:
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


def trainers(rows: list[tuple[float, int, str, int]]) -> list[int]:
    """Processes that made a step in the last half second."""
    now = time.monotonic()
    return sorted({process for when, process, _, _ in rows[-2000:] if now - when < 0.5})


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument(
        "--every", type=float, nargs=2, default=(3.0, 7.0), help="seconds of training between two kills"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400, help="of a training")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rng, local, faulty = random.Random(options.seed), options.out / "local", options.out / "faulty"
    if not list(local.glob("digits*/results.csv")):
        assert start(local, options).wait() == 0, f"the local run failed: see {local / 'log.txt'}"
    shutil.rmtree(faulty, ignore_errors=True)
    faulty.mkdir(parents=True)
    log = faulty / "steps"
    # Nodes and runs inherit these; the first keeps Ray to loopback, before it is imported.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", STEPS: str(log)}
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for place in range(NODES):
        cluster.add_node(
            num_cpus=CORES, node_name=f"node-{place}", **({"include_dashboard": False} if not place else {})
        )
    ray = ("--executor", "ray", "--ray-address", cluster.address)
    kills = dict.fromkeys(KINDS, 0)
    run, until = start(faulty, options, *ray), time.monotonic() + options.seconds
    following = rng.uniform(*options.every)  # seconds of training
    while run.poll() is None:
        time.sleep(0.25)
        working = trainers(steps_in(log))
        following -= 0.25 * bool(working)
        if following > 0 or not working or time.monotonic() > until:
            continue
        following, kind = rng.uniform(*options.every), KINDS[sum(kills.values()) % len(KINDS)]
        try:
            if kind == "node":
                cluster.remove_node(rng.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
                cluster.add_node(num_cpus=CORES, node_name=f"node-{NODES + kills['node']}")
            elif kind == "run":
                run.kill()
                run.wait()
                run = start(faulty, options, *ray)
            else:
                process = rng.choice(working)
                os.kill(process if kind == "worker" else parent(process), signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):  # it has ended meanwhile
            continue
        kills[kind] += 1
        print(f"{kind} killed", flush=True)
    cluster.shutdown()
    assert run.returncode == 0, f"the run failed: see {faulty / 'log.txt'}"
    assert not list((faulty / "store" / "unfinished").iterdir()), "something was left behind"
    lost = made_again(steps_in(log))
    found = {
        "kills": kills,
        "trainings_taken_up_again": len(lost),
        "most_seconds_made_again": max(lost, default=0.0),
        "save_seconds": SAVE_SECONDS,
        "equal": results(faulty) == results(local),
    }
    (options.out / "ray_faults.json").write_text(json.dumps(vars(options) | found, indent=1, default=str) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        sys.argv = ["sparselt", *sys.argv[2:]]
        runpy.run_module("sparselt.reproduce", run_name="__main__")
    else:
        main()
