"""Rewinding to initialization: equal epochs, the repelling loss, and angles and histograms that equal direct ones."""

import pytest

from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.rewind_to_init.experiment import rewind_to_init
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan

GRIDS = dict(
    init_lr=0.05,
    init_batch_sizes=(64, 256),
    init_warmup_steps=(8,),
    init_levels=2,
    init_fraction=0.36,
    repulsion_strengths=(2.0, -1.0),
    repulsion_levels=2,
)
STABLE, REPELLED = "batch_size=256 lr=0.05", "batch_size=256 lr=0.05 repulsion=100"


def plan(lab):
    return Plan(stage for measurement in rewind_to_init(lab) for stage in measurement.stages)


def recipes(lab):
    return {
        stage.identity_values["recipe"]["batch_size"]: stage.identity_values["recipe"]
        for stage in plan(lab).trainings()
        if stage.identity_values["recipe"]["schedule"]["peak"] == 0.05
    }


def test_batch_sizes_train_for_the_same_epochs_at_one_learning_rate(bench):
    found = recipes(bench.lab(grids=GRIDS, steps=40, milestones=(20, 32), warmup_steps=8))
    # 1,297 images: 20 steps an epoch with 64 images a step, 5 with 256.
    assert (found[64]["steps"], found[64]["schedule"]["milestones"]) == (40, [20, 32])
    assert (found[256]["steps"], found[256]["schedule"]["milestones"]) == (10, [5, 8])
    assert found[256]["schedule"]["warmup_steps"] == 2


def test_every_round_trains_from_initialization(bench):
    assert {stage.identity_values["start_step"] for stage in plan(bench.lab(grids=GRIDS)).trainings()} == {0}


def test_rounds_are_repelled_from_all_earlier_solutions(bench):
    trainings = plan(bench.lab(grids=GRIDS, replicates=1)).trainings()
    repelled = [s for s in trainings if s.identity_values.get("repulsion") == 2.0]
    solutions = [sorted(name for name in s.inputs if name.startswith("solution")) for s in repelled]
    one, two = ["solution_0"], ["solution_0", "solution_1"]
    assert sorted(solutions) == [one, two, two]  # level 1, level 2, and the reinitialized control at level 2


def test_a_repelled_reinitialization_and_the_one_without_the_loss_differ_in_nothing_else(bench):
    lab = bench.lab(grids=dict(GRIDS, init_batch_sizes=(256,)), replicates=1)
    found = {m.condition: m.stage for m in rewind_to_init(lab) if m.variant == "reinit"}
    plain, repelled = found[STABLE], found[f"{STABLE} repulsion=2"]
    values = {name: value for name, value in repelled.identity_values.items() if name != "repulsion"}
    assert values == plain.identity_values
    others = {name: need for name, need in repelled.inputs.items() if not name.startswith("solution")}
    assert others == plain.inputs and "mask" in others
    rounds = {m.level: m.stage for m in rewind_to_init(lab) if m.condition == STABLE and m.stage.kind == "train"}
    assert [file.stage.key for file in repelled.solutions] == [rounds[level].key for level in (0, 1)]


def test_warm_ups_over_their_own_rounds_share_the_trainings_of_stability(bench):
    grids = dict(GRIDS, init_warmup_levels=2, stability_levels=(2,), stability_rates=("warmup",))
    grids = dict(grids, warmup_lr=0.3, warmup_lr_steps=8, stability_rewind_steps=(0,))
    lab = bench.lab(grids=grids, replicates=1, lr=0.3)
    warm = [m.stage for m in rewind_to_init(lab) if "warmup_steps=8" in m.condition and m.stage.kind == "train"]
    stability = Plan(stage for m in EXPERIMENTS["stability"](lab) for stage in m.stages)
    assert len(warm) == 3 and {stage.key for stage in warm} <= {stage.key for stage in stability.trainings()}
    masks = [
        need.stage.identity_values["fraction"]
        for stage in warm
        for name, need in stage.inputs.items()
        if name == "mask"
    ]
    assert masks == [lab.setting.fraction] * 2 and lab.setting.fraction != GRIDS["init_fraction"]


def test_plain_rounds_and_first_masks_are_shared_with_the_repelled_ones(bench):
    lab = bench.lab(grids=dict(GRIDS, repulsion_strengths=()), replicates=1)
    without = len(plan(lab).trainings())
    lab = bench.lab(grids=dict(GRIDS, repulsion_strengths=(2.0,)), replicates=1)
    assert len(plan(lab).trainings()) == without + 2 + 2  # two rounds, and the control with and without the loss


def test_measurements_are_distinct(bench):
    found = list(rewind_to_init(bench.lab(grids=GRIDS)))
    places = {(m.variant, m.replicate, m.level, m.to_level, m.condition, m.stage.kind) for m in found}
    assert len(places) == len(found)


@pytest.fixture(scope="module")
def measured(bench):
    # Ten steps are few for a loss to act in: it is far stronger here than in the paper.
    grids = dict(GRIDS, init_batch_sizes=(256,), init_warmup_steps=(), repulsion_strengths=(100.0,))
    lab = bench.lab(grids=grids, steps=40, milestones=(20, 32), replicates=1)
    found = list(rewind_to_init(lab))
    bench.run(*(stage for measurement in found for stage in measurement.stages))
    rows = [row for measurement in found for row in measurement.rows(bench.store.read)]
    return found, rows


def value(rows, metric, **columns):
    columns = {"condition": STABLE, "variant": "imp", "to_level": None} | columns
    found = [r["value"] for r in rows if r["metric"] == metric and all(r.get(n) == v for n, v in columns.items())]
    assert len(found) == 1
    return found[0]


def solutions(bench, measured):
    """Final weights and masks of the plain rounds."""
    from sparselt.masks import Mask

    found = [m.stage for m in measured[0] if m.condition == STABLE and m.variant in ("dense", "imp")]
    networks = [stage for stage in found if stage.kind == "train"]
    masks = [Mask.load(bench.store.folder(n.inputs["mask"].stage) / "mask.safetensors") for n in networks[1:]]
    return networks, [bench.tensors(network, "final.safetensors") for network in networks], masks


def test_angles_are_those_on_shared_weights_with_the_initialization_beside(bench, measured):
    from sparselt.analysis.distances import angular_distance

    networks, states, masks = solutions(bench, measured)
    rows = measured[1]
    close = {"rel": 1e-6}
    assert value(rows, "angular_distance", level=1, to_level=2) == pytest.approx(
        angular_distance(states[1], states[2], masks[1]), **close
    )
    assert value(rows, "angular_distance", level=0, to_level=1) == pytest.approx(
        angular_distance(states[0], states[1], masks[0]), **close
    )
    start = bench.tensors(networks[0], "step-0.safetensors")
    assert value(rows, "angular_distance_to_initialization", level=2) == pytest.approx(
        angular_distance(states[2], start, masks[1]), **close
    )


def test_histograms_count_the_live_weights_and_state_the_threshold(bench, measured):
    import torch

    _, states, masks = solutions(bench, measured)
    rows = measured[1]
    shares = [r["value"] for r in rows if r["metric"] == "weight_share" and r["level"] == 2]
    assert len(shares) == 41
    assert sum(shares) == pytest.approx(1)
    live = torch.cat([states[2][name][layer] for name, layer in masks[1].items()]).abs().sort().values
    assert value(rows, "threshold", level=2) == pytest.approx(float(live[round(0.36 * len(live)) - 1]), rel=1e-6)


def test_repelled_rounds_end_further_apart(measured):
    rows = measured[1]
    apart = [value(rows, "angular_distance", level=1, to_level=2, condition=c) for c in (STABLE, REPELLED)]
    assert apart[1] > 1.2 * apart[0]


def test_barriers_and_errors_stand_for_each_round(measured):
    rows = measured[1]
    assert {(r["level"], r["to_level"]) for r in rows if r["metric"] == "barrier"} == {(0, 1), (1, 2)}
    reinit = {r["condition"] for r in rows if r["variant"] == "reinit"}
    assert reinit == {STABLE, REPELLED}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"init_batch_sizes": (1298,)}, "init_batch_sizes holds 1298.*1297 training images"),
        ({"init_batch_sizes": (0,)}, "init_batch_sizes holds 0"),
        ({"init_batch_sizes": (1297,), "steps": 24}, "init_batch_sizes holds 1297"),
        ({"init_lr": 0.0}, "init_lr"),
        ({"init_levels": 0}, "init_levels"),
        ({"init_levels": 60}, "init_levels=60.*leaves none"),
        ({"init_fraction": 1.5}, "init_fraction=1.5"),
        ({"init_warmup_levels": 200}, "init_warmup_steps holds 8.*init_warmup_levels=200 and fraction"),
        ({"repulsion_strengths": (0.0,)}, "repulsion_strengths"),
        ({"repulsion_levels": 3}, "repulsion_levels is 3.*init_levels"),
        ({"init_batch_sizes": ()}, "repulsion_strengths needs init_batch_sizes"),
    ],
)
def test_grids_that_cannot_be_run_are_refused_by_name(bench, values, named):
    setting = bench.setting(grids=GRIDS).changed(**values).checked()
    with pytest.raises(SettingError, match=named):
        list(rewind_to_init(Lab(setting)))


def test_a_setting_without_its_grids_says_why(bench):
    assert "init_batch_sizes" in EXPERIMENTS["rewind_to_init"].unsupported_reason(bench.setting(grids={}))


def test_copies_measure_the_instability_of_each_batch_sizes_dense_network():
    setting = load_setting("digits_resnet8").checked()
    found = [m for m in EXPERIMENTS["rewind_to_init"](Lab(setting)) if m.metrics == ("instability",)]
    assert len(found) == 2 * setting.replicates and {m.condition for m in found} == {
        "batch_size=16 lr=0.1",
        "batch_size=128 lr=0.1",
    }
    for m in found:
        first, second = (m.stage.first.stage, m.stage.second.stage)
        assert first.seeds.initialization == second.seeds.initialization and first.seeds.order != second.seeds.order
