"""The file of what a user brings is part of the stages' keys, and an edit during a run ends it."""

import dataclasses
import io
import sys
from dataclasses import dataclass, replace

import pytest
from rich.console import Console

from sparselt import criteria, models, own
from sparselt.errors import SettingError
from sparselt.experiments import Experiment, Options, option_types
from sparselt.experiments.display import print_plan
from sparselt.experiments.lab import Lab
from sparselt.experiments.planning import _hash
from sparselt.experiments.values import value
from sparselt.reproduce import digits_resnet8
from sparselt.runs.edited import edited
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store

OWN = """
from dataclasses import dataclass
from torch import nn
from sparselt.stages import Stage, StageFile, Value

def network(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def scores(network):
    return network.weights

@dataclass(frozen=True, kw_only=True, eq=False)
class Count(Stage):
    kind, title, unit = "count", "count", "networks"
    weights: StageFile

    def run(self, task):
        task.write_values([Value("live", 1.0)])
        return 1
"""


SOURCE = """
from dataclasses import dataclass
import numpy as np
from sparselt.data import Source

@dataclass(frozen=True)
class Grey(Source):
    classes, image_shape, train_count, test_count = 10, (1, 8, 8), 100, 50

    def arrays(self, split):
        count = 100 if split == "train" else 50
        return np.zeros((count, 1, 8, 8), np.uint8), np.arange(count) % 10
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own_edited.py"
    path.write_text(OWN)
    yield path
    sys.modules.pop("own_edited", None)


def test_an_edited_stage_is_another_one(file, bench):
    dense = bench.lab().dense(0)
    before = own.resolve("own_edited:Count")(weights=dense.final)
    again = type(before)(weights=dense.final)
    assert before.key == again.key
    file.write_text(OWN.replace('"live", 1.0', '"live", 2.0'))
    edited = type(before)(weights=dense.final)
    assert edited.key != before.key and edited.inputs == before.inputs


@pytest.mark.parametrize(("room", "name"), [(models, "own_edited:network"), (criteria, "own_edited:scores")])
def test_a_worker_that_starts_after_an_edit_refuses_the_old_plan(file, room, name):
    digest = own.source_digest(own.resolve_callable(name))
    room.check_unedited.cache_clear()
    file.write_text(OWN + "# edited\n")
    with pytest.raises(SettingError, match=f"of (model|criterion) {name} has been edited since the run was planned"):
        room.check_unedited(name, digest)


@pytest.mark.parametrize(("room", "name"), [(models, "own_edited:network"), (criteria, "own_edited:scores")])
def test_a_worker_that_has_the_old_file_in_memory_goes_on(file, room, name):
    digest = own.source_digest(own.resolve_callable(name))
    room.check_unedited.cache_clear()
    room.check_unedited(name, digest)
    file.write_text(OWN + "# edited\n")
    room.check_unedited(name, digest)


@dataclass(frozen=True, kw_only=True)
class Depths(Options):
    depths: tuple[int, ...] = value((), help="numbers")


def stored(root, *stages):
    """A store that has these stages."""
    store = Store(root)
    for stage in stages:
        folder = store.begin(stage)
        for name in stage.outputs:
            (folder / name).write_text("{}")
        store.commit(stage, folder, seconds=1.0, work=1, finished="")
        store.discard(folder)
    return store


def test_a_plan_says_which_edited_file_made_stages_new(file, tmp_path):
    setting = digits_resnet8.setting("smoke").changed(model="own_edited:network", criterion="own_edited:scores")
    lab = Lab(setting)
    before = [lab.dense(0), lab.mask(0, 0, 1).stage, lab.ticket(0, 0, 1)]
    count = own.resolve("own_edited:Count")(weights=before[0].final).want("values.json")
    store = stored(tmp_path / "store", *before, count)
    assert edited(store, [lab.dense(1)]) == {}  # other values: not made before
    file.write_text(OWN + "# edited\n")
    again = Lab(setting)
    after = [again.dense(0), again.mask(0, 0, 1).stage, again.ticket(0, 0, 1)]
    model, criterion = "model own_edited:network", "criterion own_edited:scores"
    assert edited(store, after) == {model: 3, criterion: 1}
    assert edited(store, [type(count)(weights=before[0].final)]) == {"stage Count": 1}
    console = Console(file=io.StringIO(), width=200)
    print_plan(console, setting, Plan(after), after, store, [], {})
    said = " ".join(console.file.getvalue().split())
    assert f"because the file of {model} was edited since: 3 stages, and what takes" in said
    assert "report replace those of before the edit" in said


def test_of_several_versions_in_the_store_the_nearest_tells_what_was_edited(file, tmp_path):
    other = tmp_path / "own_criterion.py"
    other.write_text("def scores(network):\n    return network.weights\n")
    setting = digits_resnet8.setting("smoke").changed(model="own_edited:network", criterion="own_criterion:scores")

    def pruned():
        lab = Lab(setting)
        return lab.mask(0, 0, 1).stage

    first = pruned()
    other.write_text(other.read_text() + "# edited\n")
    store = stored(tmp_path / "store", first, pruned())
    file.write_text(OWN + "# edited\n")
    assert edited(store, [pruned()]) == {"model own_edited:network": 1}
    sys.modules.pop("own_criterion", None)


def test_an_edited_source_is_named(file, tmp_path):
    file.write_text(SOURCE)
    source = own.resolve("own_edited:Grey")()
    before = Lab(replace(digits_resnet8.setting("smoke"), source=source)).dataset
    store = stored(tmp_path / "store", before)
    file.write_text(SOURCE + "# edited\n")
    after = Lab(replace(digits_resnet8.setting("smoke"), source=source)).dataset
    assert edited(store, [before]) == {} and edited(store, [after]) == {"source own_edited:Grey": 1}


def test_an_installed_experiment_moves_no_folder_of_other_runs():
    def hashed(known, experiments):
        setting = digits_resnet8.setting("smoke").with_options(option_types(known))
        return _hash(setting, "cpu", experiments, Lab(setting))

    one, other = Experiment(print, "nobody"), Experiment(print, "nobody", options=Depths)
    assert hashed({}, {"one": one}) == hashed({"other": other}, {"one": one})
    assert hashed({"other": other}, {"other": other}) != hashed({}, {"other": one})


def test_a_seed_that_was_explored_since_moves_no_folder():
    setting, experiments = digits_resnet8.setting("smoke"), {"one": Experiment(print, "nobody")}
    assert setting.explored_seeds == (0,)
    other = dataclasses.replace(setting, explored_seeds=())
    assert _hash(setting, "cpu", experiments, Lab(setting)) == _hash(other, "cpu", experiments, Lab(other))
