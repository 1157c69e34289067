from concurrent.futures import ThreadPoolExecutor

import pytest

from sparselt.experiments import EXPERIMENTS
from sparselt.runs.estimate import estimate
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store


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
    monkeypatch.setattr("sparselt.runs.estimate._time", lambda training, size: (0.5, 0.01))
    with ThreadPoolExecutor(1) as pool:
        speed = estimate(plan, Store(tmp_path), 8, 500, pool)
    training = lab.dense(0)
    assert speed.of(training) == pytest.approx(0.5 * training.work + 0.01 * 500)
    gradients = 4 * (flat.products + flat.trace_samples) * flat.images
    per_image = 0.5 / training.recipe.batch_size
    assert speed.of(flat) == pytest.approx(0.01 * 500 * flat.work + gradients * per_image)
