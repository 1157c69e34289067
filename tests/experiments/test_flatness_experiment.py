"""Flatness and perturbations: the plan, and every stage of a tiny run against direct computation."""

import math

import pytest
import torch
from stage_cases import task

from sparselt import Mask
from sparselt.analysis import subsample_indices
from sparselt.analysis.flatness import hessian_eigenvalues
from sparselt.data import ResidentData
from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.models import build_model
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan

FLATNESS = EXPERIMENTS["flatness"]
GRIDS = dict(flatness_levels=(0, 1), flatness_images=40, flatness_eigenvalues=2, perturbation_scales=(1.0,))


@pytest.fixture(scope="module")
def finished(bench):
    """The measurements of one replicate at one rewind step."""
    measurements = list(FLATNESS(bench.lab(grids=GRIDS, replicates=1, rewind_steps=(6,))))
    bench.run(*(stage for m in measurements for stage in m.stages))
    return measurements


def stage_of(measurements, kind, level):
    return next(m.stage for m in measurements if m.stage.kind == kind and m.level == level)


def test_rewind_steps_share_the_dense_network_and_each_perturbation_trains_once(bench):
    measurements = list(FLATNESS(bench.lab(grids=GRIDS, replicates=1)))
    plan = Plan(stage for m in measurements for stage in m.stages)
    # At either rewind step the dense network and level 1, and the next levels' masks: 1 dense, 2 of level 1, and of
    # each a perturbed one.
    assert len(plan.trainings()) == 1 + 2 + 2 * 2
    assert sum(stage.kind == "flatness" for stage in plan.stages) == 3
    assert sum(m.stage.kind == "flatness" for m in measurements) == 4


def test_every_number_has_a_place_of_its_own(bench, finished):
    rows = [row for m in finished for row in m.rows(bench.store.read)]
    keys = {tuple(row.get(name) for name in _KEY) for row in rows}
    assert len(keys) == len(rows)
    metrics = {row["metric"] for row in rows}
    assert {"eigenvalue_1", "eigenvalue_2", "trace", "largest_prunable_fraction", "barrier"} <= metrics


_KEY = ("variant", "replicate", "rewind_step", "level", "to_level", "metric", "position", "condition")


def test_the_spectrum_is_that_of_the_training_images(bench, finished):
    stage = stage_of(finished, "flatness", 1)
    values = {value["metric"]: value["value"] for value in bench.json(stage, "values.json")["values"]}
    resident = ResidentData.open(bench.store.folder(stage.inputs["train"].stage))
    chosen = subsample_indices(resident.count("train"), 40, stage.identity_values["subsample_seed"])
    normal = resident.manifest.normalization
    images = (resident.images("train")[chosen].float() / normal.scale - normal.mean[0]) / normal.std[0]
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    model.load_state_dict(bench.tensors(stage.inputs["weights"].stage, "final.safetensors"))
    mask = Mask.load(bench.store.folder(stage.inputs["mask"].stage) / "mask.safetensors")
    expected = hessian_eigenvalues(model, [(images, resident.labels("train")[chosen])], mask, 1, seed=5)
    assert values["eigenvalue_1"] == pytest.approx(expected.values[0], rel=0.02)
    assert values["eigenvalue_1"] >= values["eigenvalue_2"] and values["trace_standard_error"] > 0
    measured = bench.json(stage.inputs["dense"].stage, "measurements.json")
    assert values["threshold"] == measured["train_loss"] + measured["train_loss_std"]
    # The more a limit allows, the more can be pruned.
    wider = max(("largest_prunable_fraction", values["threshold"]), ("largest_own_fraction", _own(values, measured)),
                key=lambda pair: pair[1])[0]  # fmt: skip
    assert values[wider] == max(values["largest_prunable_fraction"], values["largest_own_fraction"])


def _own(values, measured) -> float:
    return values["loss"] + measured["train_loss_std"]


@pytest.mark.parametrize("level", [0, 1])
def test_a_perturbation_is_as_long_as_the_next_pruning_is_and_moves_live_weights_only(bench, finished, level):
    stage = stage_of(finished, "perturb", level)
    moved = bench.tensors(stage, "weights.safetensors")
    start = bench.load(stage.inputs["weights"])
    load = {name: Mask.load(bench.store.folder(stage.inputs[name].stage) / "mask.safetensors")
            for name in ("mask", "next_mask") if name in stage.inputs}  # fmt: skip
    following = load["next_mask"]
    mask = load.get("mask") or Mask({name: torch.ones_like(layer) for name, layer in following.items()})
    projection = math.hypot(*(float((start[n] * (mask[n] & ~following[n])).norm()) for n in mask))
    move = math.hypot(*(float((moved[n] - start[n] * mask[n]).norm()) for n in mask))
    assert projection > 0 and move == pytest.approx(projection, rel=1e-4)
    assert all(not moved[name][~mask[name]].any() for name in mask)
    assert all(torch.equal(moved[name], start[name]) for name in start if name not in mask)


@pytest.mark.parametrize("kind", ["flatness", "perturb"])
def test_equal_runs_give_equal_bytes(bench, finished, tmp_path, kind):
    stage = stage_of(finished, kind, 1)
    inputs = {name: bench.path(file) for name, file in stage.inputs.items()}
    stage.run(task(stage, tmp_path, inputs))
    for name in stage.outputs:
        assert (tmp_path / name).read_bytes() == (bench.store.folder(stage) / name).read_bytes()


def test_settings_that_cannot_run_it_say_why(bench):
    setting = bench.setting(grids={})
    assert "flatness_levels" in FLATNESS.unsupported_reason(setting) and not list(FLATNESS(Lab(setting)))
    with pytest.raises(SettingError, match="perturbation_level is 0"):
        bench.setting(grids=dict(perturbation_level=0))


def test_networks_are_perturbed_at_the_steps_asked_for():
    setting = load_setting("digits_resnet8").checked()
    found = {m.rewind_step for m in EXPERIMENTS["flatness"](Lab(setting)) if m.variant.startswith("perturbed")}
    assert found == {0, 60, 200}
    found = {
        m.rewind_step
        for m in EXPERIMENTS["flatness"](Lab(setting.changed(perturbation_steps=())))
        if m.variant.startswith("perturbed")
    }
    assert found == {0, 200}
