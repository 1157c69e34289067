"""What the machinery around the stages costs: a plan of stages that do nothing.

    python benchmarks/scheduling.py --stages 10000 --out FILE [--executor ray]

Makes a plan of chains of ten stages, runs it in worker processes, runs it again when all is stored, lists the folder.
With Ray the workers are those of a cluster of its own on this machine. `started` is until they have answered.
Prints, and writes to FILE, milliseconds a stage of each; of the run also those of CPU time, of all its processes, which
a busy machine changes less. Not a benchmark of `sparselt bench`: it has no competitor.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sparselt.runs.executor import execute
from sparselt.runs.inventory import Inventory, note_plan
from sparselt.runs.plan import Plan
from sparselt.runs.pool import Pool
from sparselt.runs.store import Store
from sparselt.runs.workers import Workers
from sparselt.stages import Stage, Value
from sparselt.stages.resources import Resources
from sparselt.stages.stage import StageFile

CHAIN = 10
_MARK = "SPARSELT_SCHEDULING"


@dataclass(frozen=True, kw_only=True, eq=False)
class Nothing(Stage):
    """A stage that writes one number, and needs the one before it."""

    kind, title, unit = "nothing", "do nothing", "points"

    place: int
    before: StageFile | None = None

    def run(self, task):
        task.write_values([Value("place", float(self.place))])
        return 1


class Quiet:
    """A watcher that shows nothing."""

    def progressed(self, stage, work): ...

    def finished(self, stage, entry): ...

    def tried(self, stage, error): ...

    def idle(self): ...


def chains(count: int) -> list[Stage]:
    """`count` stages in chains of ten."""
    made: list[Stage] = []
    for place in range(count):
        before = None if place % CHAIN == 0 else made[-1].measured
        stage = Nothing(place=place, before=before)
        made.append(stage.want(stage.measured))
    return made


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started, Ray's included."""
    spent, mark = time.process_time(), f"{_MARK}={os.environ[_MARK]}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def started(pools: contextlib.ExitStack, options: argparse.Namespace, store: Store) -> Pool:
    """The workers, when all have answered."""
    pool: Pool = Workers(options.workers)
    if options.executor == "ray":
        from sparselt.runs.ray_pool import RayWorkers

        pool = RayWorkers(Resources(), store.root, count=options.workers)
    pools.enter_context(pool)
    for answer in [pool.submit(time.sleep, 1) for _ in range(options.workers)]:
        answer.result()
    return pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "stages": options.stages,
        "workers": options.workers,
        "executor": options.executor,
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
    }
    seconds: dict[str, float] = {}
    os.environ[_MARK] = str(os.getpid())

    def timed(name, function):
        began = time.perf_counter()
        result = function()
        seconds[name] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        stages = chains(options.stages)
        store = Store(out / "store")
        plan = timed("plan", lambda: Plan(stages).stages and Plan(stages))
        with contextlib.ExitStack() as pools:
            workers = timed("started", lambda: started(pools, options, store))
            before = cpu_seconds()
            entries = timed("run", lambda: execute(plan, store, workers, Quiet()))
            cpu = cpu_seconds() - before
        assert all(entry.status == "ran" for entry in entries)
        again = timed("found", lambda: execute(Plan(stages), store, Workers(1), Quiet()))
        assert all(entry.status == "found" for entry in again)
        note_plan(store, "run", stages, "command", "stopped")
        (run,) = timed("list", lambda: Inventory(out).runs())
        assert run.made == options.stages
    each = {name: spent for name, spent in seconds.items() if name != "started"}
    found["milliseconds_a_stage"] = {name: 1000 * spent / options.stages for name, spent in each.items()}
    found["cpu_milliseconds_a_stage_of_the_run"] = 1000 * cpu / options.stages
    found["seconds"] = seconds
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
