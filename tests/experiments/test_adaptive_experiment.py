"""Adaptive pruning: what is planned from what was found, and every stage of a tiny run against direct computation."""

import json
from types import SimpleNamespace

import pytest
import torch
from stage_cases import task
from torch.nn import functional as F

from sparselt import Mask, magnitude_prune
from sparselt.analysis import subsample_indices
from sparselt.data import ResidentData
from sparselt.experiments import EXPERIMENTS, Lab, rounds
from sparselt.experiments.adaptive.experiment import fixed_levels
from sparselt.models import build_model
from sparselt.runs.executor import _found
from sparselt.runs.plan import Plan
from sparselt.stages import MeasuredValues

ADAPTIVE = EXPERIMENTS["adaptive"]
GRIDS = dict(adaptive_density=0.6, adaptive_rewind_step=6, adaptive_images=80)


def plan_of(measurements) -> Plan:
    return Plan(stage for m in measurements for stage in m.stages)


def finder(store):
    return lambda result: store.read(result) if store.has(result.stage) else None


@pytest.fixture(scope="module")
def finished(bench):
    """The measurements of one replicate that has gone all the way, round by round."""
    lab = Lab(bench.setting(grids=GRIDS, replicates=1), read_if_made=finder(bench.store))
    rounds = []
    while True:
        measurements = list(ADAPTIVE(lab))
        rounds.append(len(measurements))
        missing = plan_of(measurements).missing(bench.store)
        if not missing:
            return measurements, rounds
        bench.run(*missing)


def test_at_first_only_the_search_at_the_dense_network_is_planned(bench):
    measurements = list(ADAPTIVE(bench.lab(grids=GRIDS)))
    plan = plan_of(measurements)
    assert fixed_levels(bench.setting(grids=GRIDS)) == 3  # 0.8³ = 51%
    assert len(plan.trainings()) == 2 * (1 + 3)
    assert sum(stage.kind == "adaptive_prune" for stage in plan.stages) == 2


def test_the_fixed_schedule_is_that_of_imp_where_its_rewind_step_is_one_of_theirs(bench):
    lab = bench.lab(grids=GRIDS, levels=3)
    both = plan_of([*EXPERIMENTS["imp"](lab), *ADAPTIVE(lab)])
    assert len(both.trainings()) == len(plan_of(EXPERIMENTS["imp"](lab)).trainings())
    elsewhere = bench.lab(grids=dict(GRIDS, adaptive_rewind_step=9), levels=3)
    more = plan_of([*EXPERIMENTS["imp"](elsewhere), *ADAPTIVE(elsewhere)])
    assert len(more.trainings()) == len(both.trainings()) + 2 * 3


@pytest.mark.parametrize("densities", [[0.5], [0.8, 0.64, 0.6], [0.8, 0.7, 0.61, 0.2]])
def test_levels_go_on_until_the_density_is_reached(bench, densities):
    def found(result):
        level = int(result.stage.label.rsplit(" ", 1)[1])
        return MeasuredValues([], density=densities[level])

    measurements = [m for m in ADAPTIVE(Lab(bench.setting(grids=GRIDS, replicates=1), read_if_made=found))]
    trained = [m for m in measurements if m.variant == "adaptive" and m.stage.kind == "train"]
    assert [m.level for m in trained] == list(range(1, len(densities) + 1))
    searches = [m.stage for m in measurements if m.stage.kind == "adaptive_prune"]
    assert [m.stage.inputs["mask"].stage.key for m in trained] == [search.key for search in searches]
    assert len(plan_of(measurements).trainings()) == 1 + 3 + len(densities)


def test_a_run_reaches_the_density_and_asks_for_nothing_more(bench, finished):
    measurements, rounds = finished
    assert len(rounds) <= 2 + 3 and rounds == sorted(rounds)
    rows = [row for m in measurements for row in m.rows(bench.store.read)]
    densities = [row["density"] for row in rows if row["variant"] == "adaptive" and row["metric"] == "test_error"]
    assert all(density > 0.6 for density in densities[:-1]) and densities[-1] <= 0.6
    fractions = {row["level"]: row["value"] for row in rows if row["metric"] == "fraction"}
    expected = 1.0
    for level, density in enumerate(densities):
        expected *= 1 - fractions[level]
        assert density == pytest.approx(expected, rel=1e-3)
    assert {row["condition"] for row in rows} == {"target=0.6"}


def test_the_search_is_that_of_the_paper(bench, finished):
    """Threshold, losses along the paths, choice and mask, each by itself in plain torch."""
    first = next(m.stage for m in finished[0] if m.stage.kind == "adaptive_prune")
    dense = first.inputs["weights"].stage
    measured, state = bench.json(dense, "measurements.json"), bench.tensors(dense, "final.safetensors")
    values = bench.json(first, "values.json")["values"]
    found = {(value["metric"], value.get("position")): value["value"] for value in values}
    threshold = measured["train_loss"] + measured["train_loss_std"]
    assert found["threshold", None] == threshold
    resident = ResidentData.open(bench.store.folder(first.inputs["train"].stage))
    chosen = subsample_indices(resident.count("train"), 80, first.identity_values["subsample_seed"])
    normal = resident.manifest.normalization
    images = (resident.images("train")[chosen].float() / normal.scale - normal.mean[0]) / normal.std[0]
    labels = resident.labels("train")[chosen]
    model = build_model("resnet8", classes=10, channels=1, seed=0).eval()
    below = []
    for tenth in range(1, 10):
        mask = magnitude_prune(state, Mask.ones_like(model), tenth / 10)
        losses = []
        for position in (0.0, 0.5, 1.0):
            there = {
                name: (1 - position) * tensor + position * tensor * mask[name] if name in mask else tensor
                for name, tensor in state.items()
            }
            model.load_state_dict(there)
            with torch.no_grad():
                losses.append(F.cross_entropy(model(images), labels).item())
        assert found["largest_loss", tenth / 10] == pytest.approx(max(losses), rel=1e-4)
        below += [tenth / 10] if max(losses) < threshold else []
    assert found["largest_fraction", None] == max(below, default=0.0)
    assert found["fraction", None] == max([*below, 0.2])
    pruned = Mask.load(bench.store.folder(first) / "mask.safetensors")
    expected = magnitude_prune(state, Mask.ones_like(model), found["fraction", None])
    assert all(torch.equal(pruned[name], expected[name]) for name in expected)


def test_a_threshold_that_no_ratio_meets_prunes_the_least_and_says_so(bench, finished, tmp_path):
    search = next(m.stage for m in finished[0] if m.stage.kind == "adaptive_prune")
    inputs = {name: bench.path(file) for name, file in search.inputs.items()}
    dense = tmp_path / "measurements.json"
    dense.write_text(
        json.dumps(bench.json(search.dense.stage, "measurements.json") | {"train_loss": 1e-9, "train_loss_std": 0.0})
    )
    search.run(task(search, tmp_path, inputs | {"dense": dense}))
    found = json.loads((tmp_path / "values.json").read_text())
    values = {value["metric"]: value["value"] for value in found["values"]}
    assert (values["fraction"], values["largest_fraction"]) == (0.2, 0.0)
    assert "none of 9 fractions" in found["note"] and found["density"] == pytest.approx(0.8, rel=1e-3)


def test_a_setting_without_a_density_says_why_it_cannot_run_it(bench):
    setting = bench.setting(grids={})
    assert "adaptive_density" in ADAPTIVE.unsupported_reason(setting) and not list(ADAPTIVE(Lab(setting)))


def test_each_round_says_what_it_needs_before_it_runs(bench, monkeypatch):
    """`sparselt runs gc` would otherwise delete what the later rounds of a killed run have made."""
    told, made = [], []

    def execute(plan, store, pool, watcher, missing):
        made.append({stage.key for stage in plan.missing(store)})
        assert made[-1] <= told[-1]
        bench.run(*plan.stages)
        return [_found(stage, store) for stage in plan.stages]

    monkeypatch.setattr(rounds, "execute", execute)
    found = rounds.Finder(bench.store)
    lab = Lab(bench.setting(grids=GRIDS, replicates=1, seed=1), read_if_made=found)
    display = SimpleNamespace(begin=lambda *arguments: None)

    def planned(plan):
        told.append({stage.key for stage in plan.stages})

    experiments = {"adaptive": ADAPTIVE}
    first = rounds.measured(experiments, lab)
    rounds.run_rounds(experiments, lab, found, first, bench.store, None, display, planned)
    assert len(told) > 1 and told[0] < told[-1]


def test_what_another_run_made_since_the_planning_is_asked_for_again(bench):
    experiments, found = {"adaptive": ADAPTIVE}, rounds.Finder(bench.store)
    lab = Lab(bench.setting(grids=GRIDS, replicates=1, seed=2), read_if_made=found)
    planned = rounds.measured(experiments, lab)
    bench.run(*rounds.plan_of(planned).stages)
    told = []

    def execute(plan, store, pool, watcher, missing):
        bench.run(*plan.stages)
        return [_found(stage, store) for stage in plan.stages]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "execute", execute)
        display = SimpleNamespace(begin=lambda *arguments: None)
        measurements, _ = rounds.run_rounds(
            experiments, lab, found, planned, bench.store, None, display, lambda plan: told.append(len(plan.stages))
        )
    assert len(measurements) > len(planned) and told[0] < told[-1]
