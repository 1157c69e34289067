"""Lines between levels, between all pairs of them, and between copies: what is shared; against direct evaluation."""

import itertools

import pytest

from sparselt.experiments import EXPERIMENTS
from sparselt.runs.plan import Plan

CONNECTIVITY = EXPERIMENTS["connectivity"]
GRIDS = dict(instability_levels=(0, 1))


def plan_of(measurements) -> Plan:
    return Plan(stage for m in measurements for stage in m.stages)


@pytest.fixture(scope="module")
def rows(bench):
    """The rows of one replicate."""
    measurements = list(CONNECTIVITY(bench.lab(grids=GRIDS, replicates=1)))
    bench.run(*plan_of(measurements).stages)
    return [row for m in measurements for row in m.rows(bench.store.read)]


def of(rows, **columns):
    return [row for row in rows if all(row.get(name) == value for name, value in columns.items())]


def test_copies_cost_two_trainings_a_level_and_rewind_step_and_one_for_the_dense_network(bench):
    plain = plan_of(CONNECTIVITY(bench.lab(grids={}, replicates=1)))
    copies = plan_of(CONNECTIVITY(bench.lab(grids=GRIDS, replicates=1)))
    # Dense: its copy. Level 1: the ticket's copy, a random mask and its copy.
    assert len(copies.trainings()) - len(plain.trainings()) == 2 * (1 + 3)


def test_random_copies_are_those_of_stability(bench):
    grids = dict(instability_levels=(1,), stability_levels=(1,), stability_rewind_steps=(0, 6))
    lab = bench.lab(grids=grids, replicates=1)
    alone = plan_of(EXPERIMENTS["stability"](lab)).trainings()
    both = plan_of([*EXPERIMENTS["stability"](lab), *CONNECTIVITY(lab)]).trainings()
    assert len(both) - len(alone) == len(plan_of(CONNECTIVITY(bench.lab(grids={}, replicates=1))).trainings()) - 3


def test_without_a_heat_map_none_is_planned(bench):
    plan = plan_of(CONNECTIVITY(bench.lab(grids=dict(heat_map=False))))
    assert not any(stage.kind == "heat_map" for stage in plan.stages)


def test_no_row_occurs_twice(rows):
    keys = [tuple(v for k, v in row.items() if k not in ("value", "density")) for row in rows]
    assert len(keys) == len(set(keys))


def test_neighbours_on_the_heat_map_are_the_lines_of_the_path(rows):
    for level, metric in itertools.product((0, 1), ("max_error", "barrier", "instability")):
        place = {"rewind_step": 6, "level": level, "to_level": level + 1, "metric": metric}
        on_map, on_path = of(rows, condition="between=levels", **place), of(rows, condition="", **place)
        assert [row["value"] for row in on_map] == [pytest.approx(row["value"]) for row in on_path]
        assert on_map[0]["density"] == on_path[0]["density"] == pytest.approx(0.8**level, abs=1e-3)


def test_the_heat_map_holds_every_pair_at_the_last_rewind_step(rows):
    barriers = of(rows, condition="between=levels", metric="barrier")
    assert {(row["level"], row["to_level"]) for row in barriers} == {(0, 1), (0, 2), (1, 2)}
    assert {row["rewind_step"] for row in barriers} == {6}


def test_copies_of_each_variant_are_joined_at_every_rewind_step(rows):
    found = of(rows, condition="between=copies", metric="instability")
    expected = {(v, n, step) for v, n in (("dense", 0), ("imp", 1), ("random", 1)) for step in (0, 6)}
    assert {(row["variant"], row["level"], row["rewind_step"]) for row in found} == expected
    for row in found:
        place = {name: row[name] for name in ("variant", "level", "rewind_step", "condition")}
        errors = [point["value"] for point in of(rows, metric="path_error", **place)]
        assert row["value"] == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2)
        assert errors[0] != errors[-1] or row["value"] > 0  # two networks, not one
