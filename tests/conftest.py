"""What several rooms' tests share: a tiny setting on the digits, and a store in which its data is ready."""

import dataclasses
import os

# One thread a process: the suite runs several, and results are compared to the bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from sparselt.experiments.lab import Lab
from sparselt.experiments.setting import Setting
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.executor import run_stage
from sparselt.runs.plan import Plan
from sparselt.runs.stage import Stage
from sparselt.runs.store import Store

TINY = dataclasses.replace(
    MINI,
    scale="tiny",
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


class Bench:
    """Runs stages in this process, in a store of its own."""

    def __init__(self, store: Store):
        self.store = store

    def lab(self, **changes) -> Lab:
        return Lab(self.setting(**changes))

    def setting(self, **changes) -> Setting:
        return dataclasses.replace(TINY, **changes).check()

    def run(self, *stages: Stage) -> None:
        for stage in Plan(stages).missing(self.store):
            outcome = run_stage(stage, str(self.store.root))
            assert not outcome.error, outcome.error

    def tensors(self, stage: Stage, name: str):
        from sparselt.training.checkpoint import load_tensors

        self.run(stage.want(name))
        return load_tensors(self.store.folder(stage) / name)

    def json(self, stage: Stage, name: str):
        self.run(stage.want(name))
        return self.store.read(stage, name)


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    return Bench(Store(tmp_path_factory.mktemp("store")))
