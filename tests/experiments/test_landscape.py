"""Planes and lines around solutions, against direct evaluation of the networks at their corners."""

import numpy as np
import pytest

from sparselt import Mask
from sparselt.analysis import lcs_set
from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.runs.plan import Plan

LANDSCAPE = EXPERIMENTS["landscape"]
GRIDS = dict(landscape_levels=(0, 1), landscape_points=7)


def plan_of(measurements) -> Plan:
    return Plan(stage for m in measurements for stage in m.stages)


@pytest.fixture(scope="module")
def rows(bench):
    """The rows of one replicate."""
    measurements = list(LANDSCAPE(bench.lab(grids=GRIDS, replicates=1)))
    bench.run(*plan_of(measurements).stages)
    return [row for m in measurements for row in m.rows(bench.store.read)]


def of(rows, **columns):
    return [row for row in rows if all(row.get(name) == value for name, value in columns.items())]


def test_it_trains_nothing_that_imp_does_not_and_shares_the_paths(bench):
    lab = bench.lab(grids=GRIDS)
    imp, both = plan_of(EXPERIMENTS["imp"](lab)), plan_of([*EXPERIMENTS["imp"](lab), *LANDSCAPE(lab)])
    assert len(imp.trainings()) == len(both.trainings())
    paths = {stage.key for stage in plan_of(EXPERIMENTS["connectivity"](lab)).stages if stage.kind == "path"}
    assert paths == {stage.key for stage in plan_of(LANDSCAPE(lab)).stages if stage.kind == "path"}


def test_planes_are_drawn_at_the_outer_rewind_steps_for_as_many_replicates_as_asked(bench):
    lab = bench.lab(grids=GRIDS, rewind_steps=(0, 3, 6))
    planes = [m for m in LANDSCAPE(lab) if m.stage.kind == "plane"]
    assert {(m.replicate, m.rewind_step) for m in planes} == {(0, 0), (0, 6)} and len(planes) == 4


def test_a_setting_without_landscape_levels_says_so(bench):
    lab = bench.lab(grids={})
    assert "landscape_levels" in LANDSCAPE.unsupported_reason(lab.setting) and not list(LANDSCAPE(lab))


@pytest.mark.parametrize("step", [0, 6])
@pytest.mark.parametrize("level", [0, 1])
def test_the_corners_of_a_plane_are_the_networks(bench, rows, step, level):
    place = {"rewind_step": step, "level": level, "condition": "plane=grid"}
    corner = {row["metric"]: row for row in of(rows, **place) if row["metric"] != "plane_error"}
    lab = bench.lab(grids=GRIDS, replicates=1)
    first, following = lab.ticket(0, step, level), lab.ticket(0, step, level + 1)
    assert corner["solution_error"]["value"] == bench.json(first, "measurements.json")["test_error"]
    assert corner["next_solution_error"]["value"] == bench.json(following, "measurements.json")["test_error"]
    line = of(rows, rewind_step=step, level=level, condition="line=projection", metric="path_error")
    assert [line[0]["value"], line[-1]["value"]] == [
        corner["solution_error"]["value"],
        corner["projection_error"]["value"],
    ]

    weights, other = (bench.tensors(stage, "final.safetensors") for stage in (first, following))
    mask = Mask.load(bench.store.folder(lab.mask(0, step, level + 1).stage) / "mask.safetensors")
    height = sum(float((weights[name][~layer].double() ** 2).sum()) for name, layer in mask.items()) ** 0.5
    projected = {name: weights[name] * mask[name] if name in mask else weights[name] for name in weights}
    learned = [name for name in weights if "running" not in name and "num_batches" not in name]
    width = sum(float(((other[name] - projected[name]).double() ** 2).sum()) for name in learned) ** 0.5
    at = {name: (row["position"], row["position_2"]) for name, row in corner.items()}
    assert at["projection_error"] == (0, 0)
    assert at["solution_error"] == pytest.approx((0, height), abs=1e-5 * height)
    assert at["next_solution_error"] == pytest.approx((width, 0), rel=1e-5)


def test_the_grid_is_whole_and_holds_the_solution_in_its_own_set(rows):
    for level in (0, 1):
        found = of(rows, metric="plane_error", rewind_step=6, level=level)
        x, y = (np.unique([row[name] for row in found]) for name in ("position", "position_2"))
        assert (len(x), len(y), len(found)) == (7, 7, 49)
        errors = np.empty((7, 7))
        for row in found:
            errors[np.searchsorted(y, row["position_2"]), np.searchsorted(x, row["position"])] = row["value"]
        start = of(rows, metric="solution_error", rewind_step=6, level=level)[0]
        origin = (start["position"], start["position_2"])
        held = lcs_set(errors, x, y, origin, start["value"] + 0.01)
        assert held[np.searchsorted(y, origin[1]), np.searchsorted(x, origin[0])]


def test_lines_state_their_errors_and_the_largest(rows):
    for line in ("projection", "next"):
        for step, level in ((0, 0), (6, 1)):
            place = {"condition": f"line={line}", "rewind_step": step, "level": level, "to_level": level + 1}
            largest = of(rows, metric="max_error", **place)
            errors = [row["value"] for row in of(rows, metric="path_error", **place)]
            assert len(errors) == 3 and [row["value"] for row in largest] == [max(errors)]
            assert {row["metric"] for row in of(rows, **place)} == {"max_error", "path_error"}


def test_a_grid_too_coarse_for_its_margin_is_refused_before_anything_runs(bench):
    with pytest.raises(SettingError, match="landscape_points is 3; expected at least 4"):
        Lab(bench.setting(grids=dict(landscape_points=3)))
