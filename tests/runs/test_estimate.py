import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sparselt.experiments import EXPERIMENTS
from sparselt.runs.estimate import Speed, estimate
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.runs.workers import Workers
from sparselt.stages import side_by_side
from sparselt.stages.side_by_side import best_group_size, seconds_of_a_step
from sparselt.training.seconds import Timing
from sparselt.training.timing import made_up_loader


class Threads(ThreadPoolExecutor):
    count = 1


def finish(store, stage, seconds):
    folder = store.begin(stage)
    for name in stage.outputs:
        (folder / name).write_text("")
    store.commit(stage, folder, seconds=seconds, work=stage.work, finished="")
    store.discard(folder)


def test_costs_of_another_network_in_the_same_store_do_not_count(bench, tmp_path):
    store = Store(tmp_path)
    ours, other = bench.lab(), bench.lab(model="resnet20")
    for lab, seconds in ((ours, 1.0), (other, 1000.0)):
        finish(store, lab.dense(0), seconds)
        finish(store, lab.path(lab.dense(0), lab.dense(1), "path"), 2 * seconds)
    plan = Plan([ours.path(ours.dense(0), ours.dense(1), "path")])
    speed = estimate(plan, store, 8, 500, workers=None)
    assert speed.seconds["train"] == pytest.approx(1.0 / 24)
    assert speed.seconds["path"] == pytest.approx(2.0 / 3)


def test_what_a_stage_does_beside_its_units_is_estimated_too(bench, tmp_path, monkeypatch):
    lab = bench.lab()
    measurements = EXPERIMENTS["flatness"](lab)
    plan = Plan(stage for m in measurements for stage in m.stages)
    (flat, *_) = [stage for stage in plan.stages if stage.kind == "flatness"]
    monkeypatch.setattr("sparselt.runs.estimate._time", lambda *_: Timing(0.5, 0.01, 0.0))
    with Threads(1) as pool:
        speed = estimate(plan, Store(tmp_path), 8, 500, pool)
    training = lab.dense(0)
    assert speed.of(training) == pytest.approx(0.5 * training.work + 0.01 * 500)
    gradients = 4 * (flat.products + flat.trace_samples) * flat.images
    per_image = 0.5 / training.recipe.batch_size
    assert speed.of(flat) == pytest.approx(0.01 * 500 * flat.work + gradients * per_image)


@pytest.mark.parametrize(("kills", "basis"), [(1, "a few timed steps"), (9, "")])
def test_a_killed_worker_leaves_the_estimate_to_the_next_and_at_worst_out(bench, tmp_path, kills, basis):
    plan = Plan([bench.lab().dense(0)])
    with Workers(1) as workers:
        killed = set()

        def kill():
            while len(killed) < kills and not done.is_set():
                for process in workers._processes():
                    if process.pid not in killed:
                        killed.add(process.pid)
                        process.kill()
                time.sleep(0.01)

        done = threading.Event()
        killer = threading.Thread(target=kill)
        killer.start()
        speed = estimate(plan, Store(tmp_path), 8, 500, workers)
        done.set()
        killer.join()
    assert speed.basis == basis and len(killed) == min(kills, 3)
    assert (speed.of(bench.lab().dense(0)) > 0) == bool(basis)


def estimated(plan, tmp_path, **options):
    with Threads(1) as pool:
        return estimate(plan, Store(tmp_path), 8, 500, pool, **options)


@pytest.fixture
def timed(monkeypatch):
    """Stands in for the two timings; keeps what was asked of the one of cohorts."""
    asked = []

    def together(training, size, cohort, count):
        asked.append((training.device, cohort, count))
        return 0.1, 4

    monkeypatch.setattr("sparselt.runs.estimate._time", lambda *_: Timing(0.5, 0.01, 0.0))
    monkeypatch.setattr("sparselt.runs.estimate._time_together", together)
    return asked


def test_a_cohort_is_estimated_by_its_own_step(bench, tmp_path, timed):
    lab = bench.lab(replicates=4)
    plan = Plan(lab.ticket(replicate, 0, 2) for replicate in range(4))
    speed = estimated(plan, tmp_path, cohort=4)
    assert timed == [("cpu", 4, 4)] and "4 networks side by side" in speed.basis
    assert speed.of(lab.dense(0)) == pytest.approx(0.1 * 24 + 0.01 * 500)


@pytest.mark.parametrize("cohort", [None, 1])
def test_on_a_cpu_trainings_are_timed_alone_unless_a_cohort_is_asked_for(bench, tmp_path, timed, cohort):
    speed = estimated(Plan([bench.lab().dense(0)]), tmp_path, cohort=cohort)
    assert not timed and speed.seconds["train"] == 0.5


@pytest.mark.parametrize("cohort", [None, 1, 8])
def test_on_a_gpu_the_captured_step_is_timed_also_of_one_network(bench, tmp_path, timed, cohort):
    training = dataclasses.replace(bench.lab().dense(0), device="cuda")
    assert estimated(Plan([training]), tmp_path, cohort=cohort).seconds["train"] == 0.1
    assert timed == [("cuda", cohort, 1)]


def test_what_cannot_join_is_timed_alone(bench, tmp_path, timed):
    stage = dataclasses.replace(bench.lab().dense(0), device="cuda", engine="streaming")
    assert estimated(Plan([stage]), tmp_path).seconds["train"] == 0.5 and not timed


def test_gradients_besides_steps_are_taken_by_one_network_alone(bench, tmp_path, timed):
    lab = bench.lab()
    plan = Plan(stage for m in EXPERIMENTS["flatness"](lab) for stage in m.stages)
    (flat, *_) = [stage for stage in plan.stages if stage.kind == "flatness"]
    alone, together = (estimated(plan, tmp_path, cohort=cohort) for cohort in (1, 2))
    assert timed and together.of(flat) == alone.of(flat) and together.seconds["train"] < alone.seconds["train"]


def test_a_chain_takes_as_long_as_the_cohorts_that_it_is_in(bench):
    """Four chains in one cohort keep one worker busy, however many there are."""
    lab = bench.lab(replicates=4)
    plan = Plan(lab.ticket(replicate, 0, 2) for replicate in range(4))
    speed = Speed({"train": 0.1}, "", together={"train": 4})
    steps = sum(stage.work for stage in plan.trainings())
    assert speed.total(plan.stages, plan, workers=1) == pytest.approx(0.1 * steps)
    assert speed.total(plan.stages, plan, workers=2) == pytest.approx(0.1 * steps)


def test_a_cohorts_step_takes_what_the_cohort_takes(bench, monkeypatch):
    """The number of networks, and the division of their time, with a clock that every step moves."""
    stage = bench.lab(batch_size=16).dense(0)
    now, steps = [0.0], []

    class Cohort(side_by_side.Cohort):
        def _run(self, branches):
            super()._run(branches)
            steps.append(len(branches))
            now[0] += 0.25 * len(branches) + 1.0

    monkeypatch.setattr(side_by_side, "Cohort", Cohort)
    monkeypatch.setattr("sparselt.training.cohort.time.perf_counter", lambda: now[0])
    seconds, size = seconds_of_a_step(stage, 8, 8, 12)
    assert size == 6 and set(steps) == {6}  # 12 are trained as 6 and 6
    assert seconds == pytest.approx((0.25 * 6 + 1.0) / 6)
    assert len(steps) == 3  # the first, then as many as begin within four seconds
    assert not side_by_side._kept


def test_real_networks_are_timed_side_by_side(bench):
    stage = bench.lab(batch_size=16).dense(0)
    began = time.perf_counter()
    seconds, size = seconds_of_a_step(stage, 8, 2, 5)
    assert size == 2 and 0 < seconds < time.perf_counter() - began


def test_networks_that_cannot_share_a_step_are_not_timed_together(bench):
    stage = bench.lab().dense(0)
    dropping = dataclasses.replace(stage, recipe=dataclasses.replace(stage.recipe, sparse_up_to=1.0))
    assert seconds_of_a_step(dropping, 8, 2, 5) is None


def test_a_cohort_that_fails_leaves_the_estimate_to_the_step_alone(bench, monkeypatch):
    def failing(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(side_by_side, "_cohort", failing)
    assert seconds_of_a_step(bench.lab().dense(0), 8, 2, 5) is None


def test_no_more_networks_are_tried_than_can_train_together(bench, monkeypatch):
    tried = []

    class Cohort:
        def __init__(self, size):
            self.size = size

        def images_per_second(self):
            return 100 * self.size

    monkeypatch.setattr(side_by_side, "_cohort", lambda stage, loader, size: tried.append(size) or Cohort(size))
    stage = bench.lab().dense(0)
    loader = made_up_loader(stage.recipe, 10, 1, 8, {"padding": 1, "flip": False}, "cpu")
    assert best_group_size(stage, loader, 5) == 4 and tried == [1, 2, 4]
