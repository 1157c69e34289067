"""IMP's controls and variants: what is planned and shared, and each of a tiny run against direct computation."""

import json

import pytest
import torch
from grid_values import with_grids
from stage_cases import given, task

from sparselt import Mask, magnitude_prune
from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab, Measurement
from sparselt.experiments.chains import fine_tuning_rate
from sparselt.experiments.imp.options import VARIANTS
from sparselt.models import build_model, prunable_shapes
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.plan import Plan
from sparselt.stages import Prune
from sparselt.training.checkpoint import save_tensors

IMP = EXPERIMENTS["imp"]
ALL = dict(variants=VARIANTS)


def plan_of(measurements) -> Plan:
    return Plan(stage for m in measurements for stage in m.stages)


@pytest.fixture(scope="module")
def found(bench):
    """The measurements of one replicate with every variant, all run."""
    measurements = list(IMP(bench.lab(grids=ALL, replicates=1)))
    bench.run(*plan_of(measurements).stages)
    return measurements


def network(found, variant, level, step=6):
    """The training of a variant at a rewind step."""
    places = [m for m in found if (m.variant, m.level, m.stage.kind) == (variant, level, "train")]
    return next(m.stage for m in places if m.rewind_step in (step, None))


def mask_of(bench, stage) -> Mask:
    need = stage.inputs["mask"]
    bench.run(need.stage.want(need.name))
    return Mask.load(bench.store.folder(need.stage) / need.name)


def test_only_the_variants_asked_for_are_planned():
    two = with_grids(MINI, {}, replicates=1, dense_replicates=0, control_levels=(3, 6, 9, 12))
    every = two.changed(variants=VARIANTS)
    trainings = [len(plan_of(IMP(Lab(setting.checked()))).trainings()) for setting in (two, every)]
    # At four levels shuffled and one_shot; three chains down to level 12.
    assert trainings[1] - trainings[0] == 4 + 4 + 3 * 12
    assert {m.variant for m in IMP(Lab(two.checked()))} == {"dense", "imp", "random", "reinit"}
    assert {m.variant for m in IMP(Lab(every.checked()))} == {"dense", "imp", *VARIANTS}


def test_chains_begin_with_the_first_ticket_mask_and_stop_at_the_last_control_level():
    setting = with_grids(MINI, ALL, replicates=1, control_levels=(2, 5)).checked()
    lab = Lab(setting)
    measurements = list(IMP(lab))
    for variant in ("layerwise", "lr_rewinding", "fine_tuning"):
        chain = [m for m in measurements if m.variant == variant and m.stage.kind == "train"]
        assert [m.level for m in chain] == [1, 2, 3, 4, 5]
    for variant in ("lr_rewinding", "fine_tuning"):
        assert network(measurements, variant, 1, 200).inputs["mask"].stage.key == lab.mask(0, 200, 1).stage.key


def test_chains_stop_where_the_grid_says():
    setting = with_grids(MINI, ALL, replicates=1).changed(variant_levels=3).checked()
    last = {m.variant: m.level for m in IMP(Lab(setting)) if m.stage.kind == "train"}
    assert [last[variant] for variant in ("layerwise", "lr_rewinding", "fine_tuning")] == [3, 3, 3]
    assert last["one_shot"] == max(MINI.control_levels)


def test_without_control_levels_no_chain_is_trained(bench):
    assert {m.variant for m in IMP(bench.lab(grids=ALL, control_levels=()))} == {"dense", "imp"}


def test_no_row_occurs_twice(bench, found):
    rows = [tuple(v for k, v in row.items() if k != "value") for m in found for row in m.rows(bench.store.read)]
    assert len(rows) == len(set(rows)) > 40


def test_equal_weights_are_left_by_the_ticket_and_what_is_compared_with_it(bench, found):
    live = {v: mask_of(bench, network(found, v, 2)).live for v in ("imp", "random", "reinit", "shuffled", "one_shot")}
    assert len(set(live.values())) == 1
    dense = bench.tensors(network(found, "dense", 0), "final.safetensors")
    mask = mask_of(bench, network(found, "one_shot", 2))
    kept = torch.cat([dense[name][layer] for name, layer in mask.items()]).abs().min()
    assert kept >= torch.cat([dense[name][~layer] for name, layer in mask.items()]).abs().max()


def test_shuffled_weights_are_the_tickets_own_in_other_places(bench, found):
    stage = network(found, "shuffled", 2)
    mask, need = mask_of(bench, stage), stage.inputs["weights"]
    shuffled = bench.tensors(need.stage, need.name)
    before = bench.tensors(network(found, "dense", 0), "step-6.safetensors")
    assert mask == mask_of(bench, network(found, "imp", 2))
    moved = 0
    for name, tensor in before.items():
        if name in mask:
            live = mask[name]
            assert torch.equal(shuffled[name][live].sort().values, tensor[live].sort().values)
            assert torch.equal(shuffled[name][~live], tensor[~live])
            moved += not torch.equal(shuffled[name], tensor)
        else:
            assert torch.equal(shuffled[name], tensor)
    assert moved > len(mask) / 2


def test_layerwise_leaves_every_layer_the_same_share(bench, found):
    for density in mask_of(bench, network(found, "layerwise", 2)).layer_densities().values():
        assert density == pytest.approx(0.64, abs=0.02)


@pytest.mark.parametrize("variant", ["lr_rewinding", "fine_tuning"])
def test_kept_networks_train_on_from_their_final_weights(bench, found, variant):
    first, second = network(found, variant, 1), network(found, variant, 2)
    assert second.inputs["weights"].stage.key == first.key and second.inputs["weights"].name == "final.safetensors"
    expected = magnitude_prune(bench.tensors(first, "final.safetensors"), mask_of(bench, first), 0.2)
    assert mask_of(bench, second) == expected
    assert second.work == network(found, "imp", 2).work == 24 - 6
    assert second.identity_values["start_step"] == 6
    assert second.identity_values["seeds"] == network(found, "imp", 2).identity_values["seeds"]


def test_rates_are_rewound_or_stay_at_the_last(found):
    rewound, tuned = (
        network(found, variant, 1).identity_values["recipe"] for variant in ("lr_rewinding", "fine_tuning")
    )
    ticket = network(found, "imp", 1).identity_values["recipe"]
    assert rewound == ticket
    assert tuned["schedule"] | {"peak": 0.1, "milestones": [12, 18]} == ticket["schedule"]
    assert tuned["schedule"]["peak"] == pytest.approx(0.1 / 100) and tuned["schedule"]["milestones"] == []


def test_fine_tuning_takes_the_last_rate_unless_that_is_all_but_zero(bench):
    assert fine_tuning_rate(MINI) == pytest.approx(0.003)
    assert fine_tuning_rate(bench.setting(milestones=())) == pytest.approx(0.1)
    cosine = bench.setting(schedule="cosine", steps=600, milestones=())
    assert fine_tuning_rate(cosine) == pytest.approx(0.001)


def test_decoupled_decay_is_what_it_was_at_the_end_of_the_schedule(bench):
    lab = bench.lab(grids=ALL, replicates=1, decoupled_weight_decay=True)
    tuned = network(list(IMP(lab)), "fine_tuning", 1).identity_values["recipe"]
    assert tuned["weight_decay"] == pytest.approx(lab.setting.weight_decay / 100)


def pruned(folder, fraction):
    """The stage that prunes a fresh network whose fourth layer is all but zero; that layer's name."""
    weights = build_model("resnet8", classes=10, channels=1, seed=0).state_dict()
    name = [n for n in weights if n in prunable_shapes("resnet8", 10, 1)][3]
    weights[name] = 1e-9 * weights[name]
    save_tensors(weights, folder / "final.safetensors")
    shape = {"model": "resnet8", "classes": 10, "channels": 1}
    stage = Prune(fraction=fraction, scope="global", **shape, weights=given("weights"))
    stage.run(task(stage, folder, {"weights": folder / "final.safetensors"}))
    return name


def test_empty_layers_are_named_by_every_training_under_the_mask(tmp_path, bench):
    name = pruned(tmp_path, 0.5)
    assert not Mask.load(tmp_path / "mask.safetensors")[name].any()
    values = json.loads((tmp_path / "values.json").read_text())
    ticket = bench.lab().ticket(0, 0, 1)

    def read(result):
        measured = {"density": 0.5, "test_error": 0.1, "test_loss": 0.3, "train_loss": 0.2, "train_loss_std": 0.1}
        return result.decode(values if result.stage.kind == "prune" else measured)

    rows = Measurement("search", "imp", 0, 0, 1, ticket, condition="lr=0.1").rows(read)
    assert [row["condition"] for row in rows if row["metric"] == "empty_layer"] == [f"lr=0.1 layer={name}"]
    random = bench.lab().random_control(0, 0, 1)
    rows = Measurement("search", "random", 0, 0, 1, random).rows(read)
    assert [row["condition"] for row in rows if row["metric"] == "empty_layer"] == [f"layer={name}"]


def test_a_pruning_that_leaves_nothing_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(SettingError, match="pruning left none of 19,464 weights"):
        pruned(tmp_path, 0.99999)
    assert [path.name for path in tmp_path.iterdir()] == ["final.safetensors"]
