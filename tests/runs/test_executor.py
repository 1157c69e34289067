import pytest

from sparselt.errors import SparseltError
from sparselt.runs.executor import Workers, execute
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store


class Quiet:
    """A watcher that remembers."""

    def __init__(self):
        self.entries = []

    def progressed(self, stage, steps):
        pass

    def finished(self, stage, entry):
        self.entries.append(entry)

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
    assert "diverged" in failure.label and "Traceback" not in failure.label
    assert sorted(e.stage for e in watcher.entries) == sorted(e.stage for e in entries)
    again = execute(Plan(wanted), store, Workers(1), Quiet())
    assert {entry.status for entry in again} == {"found"} and all(entry.seconds > 0 for entry in again)


def test_no_worker_is_refused():
    with pytest.raises(SparseltError, match="at least 1"):
        Workers(0)
