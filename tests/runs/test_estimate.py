import pytest

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
