import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sparselt.errors import MaskError, SettingError, SparseltError
from sparselt.files import naming_errors
from sparselt.runs.executor import execute
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.runs.worker import run_stage
from sparselt.runs.workers import Workers
from sparselt.stages import Stage, Value
from sparselt.stages.identity import not_in_key


class Quiet:
    """A watcher that remembers."""

    def __init__(self):
        self.entries, self.again = [], []

    def progressed(self, stage, steps):
        pass

    def finished(self, stage, entry):
        self.entries.append(entry)

    def tried(self, stage, error):
        self.again.append(error)

    def idle(self):
        pass


def test_workers_and_one_process_give_equal_bytes_and_failures_take_only_what_needs_them(bench, tmp_path):
    lab = bench.lab()
    wanted = [lab.ticket(0, 6, 1).want("final.safetensors"), lab.ticket(1, 0, 1).want("final.safetensors")]
    broken = bench.lab(lr=1e30)
    lost = broken.ticket(0, 0, 1)
    plan, store, watcher = Plan([*wanted, lost]), Store(tmp_path), Quiet()
    with Workers(2) as workers:
        entries = execute(plan, store, workers, watcher)
    for stage in wanted:
        bench.run(stage)
        ours, theirs = (s.folder(stage) / "final.safetensors" for s in (bench.store, store))
        assert ours.read_bytes() == theirs.read_bytes()
    status = {entry.stage: entry.status for entry in entries}
    assert status[broken.dense(0).key] == "failed" and status[lost.key] == "skipped"
    assert [entry.stage for entry in entries] == [stage.key for stage in plan.stages]
    failure = next(entry for entry in entries if entry.status == "failed")
    assert "diverged" in failure.label and "Traceback" not in failure.label and failure.repeats
    assert sorted(e.stage for e in watcher.entries) == sorted(e.stage for e in entries)
    again = execute(Plan(wanted), store, Workers(1), Quiet())
    assert {entry.status for entry in again} == {"found"} and all(entry.seconds > 0 for entry in again)


@dataclass(frozen=True, kw_only=True, eq=False)
class CountThreads(Stage):
    kind, title, unit = "threads", "count threads", "points"

    threads: int

    def run(self, task):
        task.write_values([Value("threads", torch.get_num_threads())])
        return 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stage_runs_on_the_threads_that_it_names(tmp_path, threads):
    before, stage = torch.get_num_threads(), CountThreads(threads=threads)
    outcome = run_stage(stage.want(stage.measured), str(tmp_path))
    assert not outcome.error
    (value,) = Store(tmp_path).read(stage.measured)
    assert value.value == threads and torch.get_num_threads() == before


@dataclass(frozen=True, kw_only=True, eq=False)
class CountQuickly(CountThreads):
    kind, quick = "quick_threads", True


def test_quick_stages_run_before_those_with_more_work(tmp_path):
    stages = [CountThreads(threads=1, work=100), CountQuickly(threads=1, work=1)]
    plan, watcher = Plan(stage.want(stage.measured) for stage in stages), Quiet()
    with Workers(1) as workers:
        execute(plan, Store(tmp_path), workers, watcher)
    assert [entry.kind for entry in watcher.entries] == ["quick_threads", "threads"]


class Noting(Workers):
    """Workers that remember which stages ran as one unit."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.units = []

    def submit(self, function, what, *arguments):
        self.units.append(what if isinstance(what, list) else [what])
        return super().submit(function, what, *arguments)


def test_trainings_side_by_side_give_the_bytes_they_give_alone_and_fail_alone(bench, tmp_path):
    lab, broken = bench.lab(), bench.lab(lr=1e30)
    wanted = [lab.ticket(replicate, rewind, 1) for replicate, rewind in ((0, 0), (1, 0), (1, 2))]
    wanted.append(lab.dense(1).want("step-0.safetensors", "momentum-0.safetensors", "momentum-9.safetensors"))
    lost = broken.ticket(0, 0, 1)
    plan, store = Plan([*wanted, lost]), Store(tmp_path)
    with Noting(1, 3) as workers:
        entries = {entry.stage: entry for entry in execute(plan, store, workers, Quiet())}
    together = [{stage.key for stage in unit} for unit in workers.units if len(unit) > 1]
    assert {lab.dense(0).key, lab.dense(1).key, broken.dense(0).key} in together
    # A start two steps later is near enough to be trained along.
    assert {len(unit) for unit in together} == {3} and len(together) == 2
    for stage in plan.trainings():
        if stage.key in (broken.dense(0).key, lost.key):
            continue
        bench.run(stage)
        files = store.record(stage)["files"]
        assert stage.outputs | {"final.safetensors"} <= files.keys()
        for name in files:
            ours, theirs = (s.folder(stage) / name for s in (bench.store, store))
            assert ours.read_bytes() == theirs.read_bytes(), (stage.label, name)
        assert entries[stage.key].status == "ran" and entries[stage.key].seconds > 0
    assert entries[broken.dense(0).key].status == "failed" and "diverged" in entries[broken.dense(0).key].label
    assert entries[lost.key].status == "skipped"


def test_no_worker_is_refused():
    with pytest.raises(SparseltError, match="at least 1"):
        Workers(0)


def test_no_network_at_a_time_is_refused():
    with pytest.raises(SparseltError, match="cohort is 0"):
        Workers(1, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Passing(Stage):
    """Fails in `how`, and leaves a mark each time, until there are `fails` marks in `folder`."""

    kind, title, unit = "passing", "fail at first", "points"

    how: str
    fails: int
    folder: str = not_in_key("")

    def run(self, task):
        marks = Path(self.folder)
        if len(list(marks.iterdir())) < self.fails:
            (marks / str(time.monotonic_ns())).touch()
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "damaged":
                task.write_values([Value("marks", 0)])
                (task.folder / self.measured.name).write_text("{}")
                return 1
            if self.how == "full mask":
                with naming_errors("mask file", MaskError, "choose another path"):
                    raise OSError(28, "No space left on device")
            raise {"full": OSError(28, "No space left on device"), "wrong": SettingError("a wrong value")}[self.how]
        task.write_values([Value("marks", len(list(marks.iterdir())))])
        return 1


@pytest.mark.parametrize(
    ("how", "fails", "status", "tries"),
    [("killed", 1, "ran", 2), ("killed", 9, "failed", 3), ("full", 2, "ran", 3), ("full", 9, "failed", 3)]
    + [("wrong", 9, "failed", 1), ("damaged", 1, "ran", 2), ("damaged", 9, "failed", 3), ("full mask", 9, "failed", 3)],
)
def test_what_may_pass_is_tried_three_times_and_the_rest_goes_on(bench, tmp_path, how, fails, status, tries):
    marks = tmp_path / "marks"
    marks.mkdir()
    failing = Passing(how=how, fails=fails, folder=str(marks))
    others = [CountThreads(threads=1), bench.lab().mask(0, 0, 1).stage]
    wanted = [stage.want(stage.measured) for stage in (others[0], failing)] + others[1:]
    watcher = Quiet()
    with Workers(1) as workers:
        workers.submit(time.monotonic).result()
        entries = {e.stage: e for e in execute(Plan(wanted), Store(bench.store.root), workers, watcher)}
    assert entries[failing.key].status == status
    assert len(list(marks.iterdir())) == (tries if status == "failed" else tries - 1)
    assert len(watcher.again) == tries - 1
    assert entries[others[0].key].status in ("ran", "found") and entries[others[1].key].status in ("ran", "found")
    if status == "failed":
        full = r"unfinished/passing-.* cannot be written \(No space left on device\); make room on that file system"
        said = {"killed": "a worker process was killed", "full": full, "full mask": full, "wrong": "a wrong value"}
        said["damaged"] = "values.json does not read back as it was written"
        assert re.search(said[how], entries[failing.key].label)
