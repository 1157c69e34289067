"""What several rooms' tests share: a tiny setting on the digits, and a store in which its data is ready."""

import dataclasses
import json
import os
import signal
from pathlib import Path

# A script's shell starts what stands before `&` with Ctrl-C ignored, and so would be all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread a process: the suite runs several, and results are compared to the bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from grid_values import with_grids

from sparselt.experiments.lab import Lab
from sparselt.experiments.setting import Setting
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.estimate import Speed
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.runs.worker import run_stage
from sparselt.stages import Stage
from sparselt.stages.stage import JsonFile, StageFile

TINY = dataclasses.replace(
    MINI,
    scale="tiny",
    sparse_up_to=0.0,  # torch's step, which cohorts and textbook loops share; tests/training/test_live.py has the other
    steps=24,
    milestones=(12, 18),
    lr=0.1,
    levels=2,
    rewind_steps=(0, 6),
    replicates=2,
    dense_replicates=0,
    control_levels=(2,),
    control_rewind_step=6,
    path_points=3,
)


LONGEST = (
    "kernels/test_interpreter.py",
    "test_optim_kinds.py",
    "reproduce/test_run.py",
    "runs/test_gang.py",
    "reproduce/test_stopping.py",
    "examples/test_pages.py",
    "reproduce/test_shared_store.py",
    "benchmarks/test_bench_command.py",
)
"""Files that take longest. They come first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = [Path(__file__).parent / name for name in LONGEST]
    items.sort(key=lambda item: first.index(item.path) if item.path in first else len(first))


class Bench:
    """Runs stages in this process, in a store of its own."""

    def __init__(self, store: Store):
        self.store = store

    def lab(self, **changes) -> Lab:
        return Lab(self.setting(**changes))

    def setting(self, **changes) -> Setting:
        grids = changes.pop("grids", None)
        setting = TINY if grids is None else with_grids(TINY, grids)
        return dataclasses.replace(setting, **changes).checked()

    def run(self, *stages: Stage) -> None:
        for stage in Plan(stages).missing(self.store):
            outcome = run_stage(stage, str(self.store.root))
            assert not outcome.error, outcome.error

    def tensors(self, stage: Stage, name: str):
        from sparselt.training.checkpoint import load_tensors

        self.run(stage.want(name))
        return load_tensors(self.store.folder(stage) / name)

    def load(self, file: StageFile):
        return self.tensors(file.stage, file.name)

    def json(self, stage: Stage, name: str):
        self.run(stage.want(name))
        return json.loads((self.store.folder(stage) / name).read_text())

    def path(self, file: StageFile) -> Path:
        return self.store.folder(file.stage) / file.name

    def read(self, result: JsonFile):
        self.run(result.stage)
        return self.store.read(result)


@pytest.fixture
def untimed(monkeypatch) -> None:
    """Commands of this process say that a training step takes a millisecond, and time none."""
    speed = Speed({"train": 1e-3}, "a guess of the tests")
    monkeypatch.setattr("sparselt.experiments.run.estimate", lambda *args: speed)


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    return Bench(Store(tmp_path_factory.mktemp("store")))
