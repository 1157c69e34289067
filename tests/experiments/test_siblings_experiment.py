import dataclasses

import pytest
from stage_cases import given, task

from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.siblings.experiment import siblings
from sparselt.runs.plan import Plan
from sparselt.stages import CombineMasks, Stage

GRIDS = dict(
    sibling_pretraining=(0, 6),
    sibling_overlap=2,
    sibling_counts=(2, 3),
    sibling_densities=(0.3,),
    sibling_retrained=(6,),
    sibling_levels=(1, 2),
    sibling_iterative_counts=(2,),
)


def planned(bench, **changes):
    lab = bench.lab(replicates=1, grids=dict(GRIDS, **changes))
    measurements = list(siblings(lab))
    return lab, measurements, Plan(stage for m in measurements for stage in m.stages)


def only(measurements, variant, level=1, count=2, kind="train"):
    found = [
        m
        for m in measurements
        if (m.variant, m.level, m.stage.kind) == (variant, level, kind) and f"siblings={count} " in m.condition
    ]
    (measurement,) = found
    return measurement.stage


def test_siblings_share_their_pretraining_and_differ_in_order_only(bench):
    lab, _, plan = planned(bench, sibling_levels=(1,))
    dense = [t for t in plan.trainings() if "mask" not in t.inputs]
    # The dense network, two siblings from initialization and three from step 6.
    assert len(dense) == 6
    assert len({t.identity_values["seeds"]["order"] for t in dense}) == 4
    assert len({t.identity_values["seeds"]["initialization"] for t in dense}) == 1
    pretrained = [t for t in dense if t.identity_values["start_step"] == 6]
    assert {t.inputs["weights"].stage.key for t in pretrained} == {lab.dense(0).key}
    assert {t.inputs["weights"].name for t in pretrained} == {"step-6.safetensors"}


def test_no_sibling_has_the_data_order_in_which_masks_are_retrained(bench):
    lab, measurements, plan = planned(bench)
    retrained = {m.stage.key: m.stage for m in measurements if m.stage.kind == "train" and m.variant != "dense"}
    orders = {t.identity_values["seeds"]["order"] for t in retrained.values()}
    assert orders == {lab.dense(0).identity_values["seeds"]["order"]}
    others = [t for t in plan.trainings() if t.key not in retrained and t.key != lab.dense(0).key]
    assert orders.isdisjoint(t.identity_values["seeds"]["order"] for t in others)


def test_an_iterative_sibling_keeps_its_order_through_all_levels(bench):
    _, measurements, _ = planned(bench)
    combine = only(measurements, "union", level=2, kind="combine")
    for k in range(2):
        last = combine.inputs[f"weights_{k}"].stage
        assert last.inputs["mask"] == combine.inputs[f"worn_{k}"]
        before = last.inputs["mask"].stage.inputs["weights"].stage
        assert last.identity_values["seeds"] == before.identity_values["seeds"]
        assert last.inputs["weights"].name == before.inputs["weights"].name == "step-6.safetensors"


def test_densities_and_counts_share_the_siblings_trainings(bench):
    def dense_trainings(**changes):
        return [t.key for t in planned(bench, sibling_levels=(1,), **changes)[2].trainings() if "mask" not in t.inputs]

    assert dense_trainings(sibling_densities=(0.3, 0.2, 0.1)) == dense_trainings()
    assert set(dense_trainings(sibling_counts=(2,))) < set(dense_trainings())


def test_no_two_measurements_would_fill_the_same_cells(bench):
    _, measurements, _ = planned(bench, sibling_densities=(0.3, 0.2))
    places = [(m.variant, m.replicate, m.rewind_step, m.level, m.condition, m.stage.kind) for m in measurements]
    assert len(set(places)) == len(places)


def test_all_masks_hold_equally_many_weights_and_are_what_direct_computation_gives(bench):
    from sparselt.analysis.overlap import mask_overlap
    from sparselt.masks import Mask
    from sparselt.pruning import magnitude_prune
    from sparselt.siblings import combined_mask

    lab, measurements, plan = planned(bench)
    bench.run(*plan.stages)
    weights = [bench.tensors(lab.rewound(0, 6, None, "", data_order_copy=k), "final.safetensors") for k in (1, 2, 3)]
    names = list(Mask.load(bench.store.folder(only(measurements, "single", count=1).inputs["mask"].stage) / MASK))
    dense = Mask({name: weights[0][name] == weights[0][name] for name in names})
    alone = [magnitude_prune(w, dense, 0.7) for w in weights]

    for how in ("union", "intersection"):
        stage = only(measurements, how, count=3, kind="combine")
        expected, sibling_density = combined_mask(weights, alone[0].density, how, dense)
        assert loaded(bench, stage) == expected
        values = bench.json(stage, "values.json")["values"]
        assert values[0] == {"metric": "sibling_density", "value": sibling_density, "density": expected.density}
        layers = {v["condition"]: v["value"] for v in values[1:]}
        assert layers == {f"siblings=3 density=0.3 layer={n}": d for n, d in expected.layer_densities().items()}

    found = bench.json(only(measurements, "siblings", count=3, kind="overlap"), "values.json")["values"]
    assert {v["metric"]: v["value"] for v in found} == dataclasses.asdict(mask_overlap(alone))
    retrained = [m.stage for m in measurements if m.stage.kind == "train" and m.variant != "dense"]
    masks = [loaded(bench, stage.inputs["mask"].stage) for stage in retrained]
    assert len({mask.live for mask in masks if mask.density < 1}) <= 2  # one-shot and iterative, by rounding
    rows = [row for m in measurements for row in m.rows(bench.store.read)]
    keys = ("variant", "level", "metric", "condition", "position", "rewind_step")
    assert len({tuple(row.get(key) for key in keys) for row in rows}) == len(rows)
    assert all(0 < row["density"] <= 1 for row in rows)


def test_an_intersection_that_iterative_siblings_cannot_reach_fails_with_the_reason(bench, tmp_path):
    import torch

    from sparselt.masks import Mask
    from sparselt.training.checkpoint import save_tensors

    halves = [torch.tensor([True] * 4 + [False] * 4), torch.tensor([False] * 3 + [True] * 4 + [False])]
    inputs = {"equal": tmp_path / "equal"}
    stage = CombineMasks(
        how="intersection",
        scope="global",
        condition="siblings=2 density=0.25",
        weights=(given("a"), given("b")),
        worn=(given("c"), given("d")),
        as_many_as=given("equal"),
    )
    Mask({"w": torch.tensor([True, True] + [False] * 6)}).save(inputs["equal"])
    for k, half in enumerate(halves):
        inputs |= {f"worn_{k}": tmp_path / f"worn{k}", f"weights_{k}": tmp_path / f"weights{k}"}
        Mask({"w": half}).save(inputs[f"worn_{k}"])
        save_tensors({"w": half.float()}, inputs[f"weights_{k}"])
    with pytest.raises(SettingError, match=r"cannot reach density 0\.25 by intersection: of 0\.125"):
        stage.run(task(stage, tmp_path, inputs))
    assert not (tmp_path / MASK).exists()
    assert dataclasses.replace(stage, how="union").run(task(stage, tmp_path, inputs)) == 1


def test_siblings_that_diverged_are_named(bench, tmp_path):
    import torch

    from sparselt.masks import Mask
    from sparselt.training.checkpoint import save_tensors

    inputs = {"equal": tmp_path / "equal", "weights_0": tmp_path / "w0", "weights_1": tmp_path / "w1"}
    Mask({"w": torch.tensor([True, False])}).save(inputs["equal"])
    save_tensors({"w": torch.ones(2)}, inputs["weights_0"])
    save_tensors({"w": torch.tensor([1.0, float("nan")])}, inputs["weights_1"])
    from sparselt.errors import TrainingError

    weights = (given("a"), given("b"))
    stage = CombineMasks(how="union", scope="global", condition="", weights=weights, worn=(), as_many_as=given("equal"))
    with pytest.raises(TrainingError, match="sibling 1"):
        stage.run(task(stage, tmp_path, inputs))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sibling_counts": (1, 4)}, "sibling_counts"),
        ({"sibling_iterative_counts": (0,)}, "sibling_iterative_counts"),
        ({"sibling_overlap": 1}, "sibling_overlap is 1; expected 2 to 64 siblings"),
        ({"sibling_levels": (0,)}, "sibling_levels"),
        ({"sibling_densities": (1.0,)}, "sibling_densities"),
        ({"sibling_densities": (0.0,)}, "sibling_densities"),
        ({"sibling_retrained": (7,)}, "not among sibling_pretraining"),
    ],
)
def test_grids_that_siblings_cannot_run_are_refused_before_anything_is_planned(bench, values, message):
    with pytest.raises(SettingError, match=message):
        bench.setting(grids=dict(GRIDS, **values))


def test_a_setting_without_pretraining_in_its_grid_says_why_not(bench):
    setting = bench.setting(grids={})
    why = EXPERIMENTS["siblings"].unsupported_reason(setting)
    assert "no sibling_pretraining" in why and "--set sibling_pretraining=0," in why
    assert not EXPERIMENTS["siblings"].unsupported_reason(bench.setting(grids=GRIDS))


MASK = "mask.safetensors"


def loaded(bench, stage: Stage):
    from sparselt.masks import Mask

    return Mask.load(bench.store.folder(stage) / MASK)
