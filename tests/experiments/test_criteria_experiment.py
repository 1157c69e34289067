"""Criteria at equal density: what is planned and shared, and masks that equal those computed directly."""

import subprocess
import sys

import pytest
from grid_values import with_grids

from sparselt.errors import CriterionError, SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.criteria.options import CriteriaOptions
from sparselt.experiments.record import protocol
from sparselt.masks import Mask
from sparselt.models import build_model
from sparselt.pruning import prune
from sparselt.reproduce import load_setting
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.plan import Plan
from sparselt.scopes import erk_counts
from sparselt.stages.identity import to_json

CRITERIA = EXPERIMENTS["criteria"]
GRIDS = dict(criteria=("magnitude", "random", "snip"), criteria_levels=(1, 2))


def plan_of(measurements) -> Plan:
    return Plan(stage for m in measurements for stage in m.stages)


def mask_of(bench, network) -> Mask:
    file = network.inputs["mask"]
    bench.run(file.stage.want(file.name))
    return Mask.load(bench.path(file))


def once(measurements, criterion, when, level):
    (found,) = [
        m.stage
        for m in measurements
        if (m.variant, m.level, m.condition) == ("one_shot", level, f"criterion={criterion} when={when}")
    ]
    return found


@pytest.fixture(scope="module")
def found(bench):
    """The measurements of one replicate, all run."""
    measurements = list(CRITERIA(bench.lab(grids=GRIDS, replicates=1)))
    bench.run(*plan_of(measurements).stages)
    return measurements


def test_no_setting_runs_it_unless_asked_and_its_defaults_change_no_digest():
    for scale in ("mini", "smoke"):
        assert "it has no criteria and no criteria_levels" in CRITERIA.unsupported_reason(
            load_setting("digits_resnet8", scale)
        )
    assert to_json(CriteriaOptions()) == {}
    setting = load_setting("digits_resnet8").changed(criteria=("snip",), criteria_levels=(3,))
    assert not CRITERIA.unsupported_reason(setting)
    assert list(CRITERIA(Lab(load_setting("digits_resnet8")))) == []


def test_each_criterion_takes_two_trainings_a_level_beside_those_of_imp():
    setting = with_grids(MINI, dict(GRIDS, criteria_levels=(3, 6)), replicates=2, dense_replicates=3).checked()
    lab = Lab(setting)
    measurements = list(CRITERIA(lab))
    own = {t.key for t in plan_of(measurements).trainings()} - {t.key for t in plan_of(EXPERIMENTS["imp"](lab)).stages}
    assert len(own) == 2 * 2 * 3 * 2
    assert len({m.cells for m in measurements}) == len(measurements) == 3 + 2 * 2 * (1 + 3 * 2)


def test_networks_start_where_their_criterion_says_and_keep_the_data_order_of_the_ticket(bench, found):
    lab = bench.lab(grids=GRIDS, replicates=1)
    for when, step, scored in (("initialization", 0, "step-0.safetensors"), ("training", 6, "final.safetensors")):
        network = once(found, "snip", when, 2)
        assert network.inputs["weights"] == lab.checkpoint(0, step)
        assert (network.identity_values["start_step"], network.work) == (step, 24 - step)
        assert network.inputs["mask"].stage.inputs["weights"].name == scored
        assert network.identity_values["seeds"] == lab.ticket(0, 6, 2).identity_values["seeds"]


def test_all_masks_of_a_level_hold_as_many_weights_as_the_ticket(bench, found):
    for level in (1, 2):
        networks = [m.stage for m in found if m.level == level]
        assert len(networks) == 7
        assert len({mask_of(bench, network).live for network in networks}) == 1
    rows = [row for m in found for row in m.rows(bench.store.read)]
    assert {row["density"] for row in rows if row["level"] == 2} == {mask_of(bench, networks[0]).density}
    assert all(0 <= row["value"] <= 1 for row in rows if row["metric"] == "test_error")


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("when", ["initialization", "training"])
def test_masks_are_what_direct_computation_gives(bench, found, criterion, when):
    network = once(found, criterion, when, 2)
    stage = network.inputs["mask"].stage
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    model.load_state_dict(bench.load(stage.inputs["weights"]))
    dense = Mask.ones_like(model)
    share = 1 - mask_of(bench, found[-1].stage).live / dense.live
    assert mask_of(bench, network) == prune(model, dense, share, criterion, seed=stage.identity_values["seed"])


def test_a_scope_distributes_the_number_of_weights(bench):
    masks = {}
    for scope in ("erk", "layerwise"):
        measurements = list(CRITERIA(bench.lab(grids=dict(GRIDS, criteria_scope=scope), replicates=1)))
        masks[scope] = mask_of(bench, once(measurements, "snip", "initialization", 1))
        ticket = mask_of(bench, measurements[1].stage)
    shapes = [layer.shape for layer in ticket.values()]
    counts = erk_counts(shapes, [shape.numel() for shape in shapes], ticket.live)
    assert [int(layer.sum()) for layer in masks["erk"].values()] == counts and sum(counts) == ticket.live
    assert 0 <= ticket.live - masks["layerwise"].live < len(shapes)
    assert all(abs(density - ticket.density) < 0.02 for density in masks["layerwise"].layer_densities().values())


def test_the_user_s_own_criterion_is_tried_and_a_wrong_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_scores.py").write_text(
        "def small(network):\n    return {name: -w.abs() for name, w in network.weights.items()}\n"
        "def nothing(network):\n    return {}\n"
    )
    setting = load_setting("digits_resnet8").changed(criteria_levels=(2,))
    lab = Lab(setting.changed(criteria=("own_scores:small",)).checked())
    own = {m.condition for m in CRITERIA(lab) if m.variant == "one_shot"}
    assert own == {f"criterion=own_scores:small when={when}" for when in ("initialization", "training")}
    with pytest.raises(SettingError, match="pruning criterion is 'snp'; expected one of"):
        setting.changed(criteria=("snip", "snp")).checked()
    with pytest.raises(CriterionError, match="'nothing': got no scores for layer"):
        setting.changed(criteria=("snip", "own_scores:nothing")).checked()
    sys.modules.pop("own_scores")


def test_levels_that_the_setting_lacks_are_refused_or_fall_away():
    setting = load_setting("digits_resnet8")
    with pytest.raises(SettingError, match="criteria_levels: level 13 of a setting of 12 levels"):
        setting.with_values(["criteria=snip", "criteria_levels=13"])
    with pytest.raises(SettingError, match="criteria_scope is 'all'; expected one of global, layerwise, erk"):
        setting.with_values(["criteria_scope=all"])
    shorter = setting.with_values(["criteria=snip", "criteria_levels=3,12"]).changed(levels=4).checked()
    assert shorter.option(CriteriaOptions).criteria_levels == (3,)


def test_the_protocol_of_a_run_names_the_criterion_and_the_criteria_where_they_decide_something():
    usual = load_setting("digits_resnet8")

    def named(*values):
        lines = {name: (value, source) for name, value, source in protocol(usual.with_values(values), usual)}
        return {name: lines[name][0] for name in lines if name.startswith("criteri")}

    assert named() == {}
    assert named("criterion=snip", "criterion_images=50") == {"criterion": "snip", "criterion_images": 50}
    assert named("criteria=snip,random", "criteria_levels=3") == {
        "criteria": ["snip", "random"],
        "criteria_levels": [3],
        "criteria_scope": "global",
    }


def test_options_need_no_torch():
    code = "import sys, sparselt.experiments.criteria.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
