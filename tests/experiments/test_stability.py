"""Stability: what is trained and shared, and distances that equal those computed from the networks directly."""

import math

import pytest

from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.stability.experiment import stability
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan

GRIDS = dict(
    stability_levels=(1,),
    stability_rewind_steps=(0, 6),
    stability_rates=("standard", "low", "warmup"),
    low_lr=0.01,
    warmup_lr=0.1,
    warmup_lr_steps=8,
)


def plan(measurements):
    return Plan(stage for measurement in measurements for stage in measurement.stages)


def test_each_subnetwork_takes_two_trainings_beside_those_of_imp(bench):
    lab = bench.lab(grids=GRIDS, replicates=1)
    imp = plan(EXPERIMENTS["imp"](lab)).trainings()
    own = {stage.key for stage in plan(stability(lab)).trainings()} - {stage.key for stage in imp}
    # At each of two steps: the ticket's copy, a random mask and its copy. At each of two rates: dense and ticket too.
    assert len(own) == 2 * 3 + 2 * 5


def test_warm_up_shares_its_tickets_with_rewinding_to_initialization(bench):

    grids = dict(GRIDS, init_warmup_steps=(8,), init_levels=2)
    lab = bench.lab(grids=grids, replicates=1)
    both = [{stage.key for stage in plan(EXPERIMENTS[n](lab)).trainings()} for n in ("stability", "rewind_to_init")]
    assert len(both[0] & both[1]) == 2  # the dense network and level 1


def test_measurements_are_distinct_and_say_what_they_compare(bench):
    found = list(stability(bench.lab(grids=GRIDS)))
    places = {(m.variant, m.replicate, m.rewind_step, m.level, m.condition) for m in found}
    assert len(places) == len(found)
    assert {m.condition for m in found if m.stage.kind == "distances"} == {
        f"rate={rate} stability={kind}" for rate in ("standard", "low", "warmup") for kind in ("pruning", "order")
    }


@pytest.fixture(scope="module")
def measured(bench):
    lab = bench.lab(grids=dict(stability_levels=(1,), stability_rewind_steps=(6,)), replicates=1)
    found = list(stability(lab))
    bench.run(*(stage for measurement in found for stage in measurement.stages))
    rows = [row for measurement in found for row in measurement.rows(bench.store.read)]
    return lab, {(row["variant"], row["condition"], row["metric"]): row for row in rows}


@pytest.mark.parametrize("variant", ["imp", "random"])
@pytest.mark.parametrize("kind", ["pruning", "order"])
def test_distances_are_those_of_the_live_weights(bench, measured, variant, kind):
    import torch

    from sparselt.masks import Mask

    lab, rows = measured
    need = lab.mask(0, 6, 1) if variant == "imp" else lab.random_mask(0, 6, 1)
    bench.run(need.stage)
    mask = Mask.load(bench.store.folder(need.stage) / need.name)
    networks = [lab.rewound(0, 6, need, "", data_order_copy=0)]
    networks.append(lab.dense(0) if kind == "pruning" else lab.rewound(0, 6, need, "", data_order_copy=1))
    states = [bench.tensors(network, "final.safetensors") for network in networks]
    first, second = (torch.cat([s[name][layer] for name, layer in mask.items()]).double() for s in states)
    place = (variant, f"rate=standard stability={kind}")
    assert rows[*place, "l2_distance"]["value"] == pytest.approx(float((first - second).norm()), rel=1e-9)
    cosine = float(first @ second / first.norm() / second.norm())
    assert rows[*place, "angle"]["value"] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-5)
    assert rows[*place, "angle"]["density"] == mask.density
    assert float((first - second).norm()) > 0


def test_error_stands_at_the_same_points_as_distances(measured):
    _, rows = measured
    assert {place[0] for place in rows if place[2] == "test_error"} == {"dense", "imp", "random"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"stability_levels": (0, 1)}, "stability_levels"),
        ({"stability_rates": ("low",), "low_lr": 0.0}, "low_lr"),
        ({"stability_rates": ("warmup",), "low_lr": 0.0, "warmup_lr": 0.0}, "low_lr"),
        ({"stability_rates": ("warmup",), "warmup_lr_steps": 0}, "warmup_lr_steps"),
    ],
)
def test_grids_that_cannot_be_run_are_refused_by_name(bench, values, named):
    setting = bench.setting(grids=GRIDS).changed(**values).checked()
    with pytest.raises(SettingError, match=named):
        list(stability(Lab(setting)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"grids": {}}, "stability_levels"),
        ({"grids": dict(stability_levels=(1,))}, "stability_rewind_steps"),
        ({"grids": GRIDS, "reshuffle": "level"}, "reshuffle"),
    ],
)
def test_settings_that_cannot_run_it_say_why(bench, changes, reason):
    setting = bench.setting(**changes)
    assert reason in EXPERIMENTS["stability"].unsupported_reason(setting)
    assert not list(EXPERIMENTS["stability"](Lab(setting)))


def test_curves_take_every_level_of_every_rate_without_another_training():
    setting = load_setting("digits_resnet8").checked()
    without = setting.changed(stability_curves=False)

    def keys(setting):
        plan = Plan(stage for m in EXPERIMENTS["stability"](Lab(setting)) for stage in m.stages)
        return {stage.key for stage in plan.trainings()}

    assert keys(setting) == keys(without)
    errors = [m for m in EXPERIMENTS["stability"](Lab(setting)) if (m.variant, m.rewind_step) == ("imp", 0)]
    levels = {(m.condition, m.level) for m in errors if "stability" not in m.condition}
    assert levels == {(f"rate={rate}", level) for rate in ("standard", "low", "warmup") for level in range(1, 9)}
