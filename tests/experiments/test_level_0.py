"""Level 0 rewound: the dense network trained on from each rewind checkpoint, wherever a rewind step is at hand."""

import pytest

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.imp.levels import levels
from sparselt.experiments.rounds import measured, plan_of
from sparselt.report.data import Data
from sparselt.report.results import Row
from sparselt.stages.train import Train

# rewind_to_init rewinds to step 0 only, where the two choices are one.
EVERYWHERE = {name: e for name, e in EXPERIMENTS.items() if name != "rewind_to_init"}
GRIDS = {
    "variants": ("one_shot", "layerwise", "lr_rewinding"),
    "instability_levels": (0, 1),
    "landscape_levels": (0,),
    "landscape_points": 4,
    "adaptive_density": 0.5,
    "adaptive_rewind_step": 6,
    "sibling_pretraining": (6,),
    "sibling_densities": (0.5,),
    "sibling_counts": (2,),
    "sibling_retrained": (6,),
    "stability_levels": (1,),
    "stability_rewind_steps": (6,),
    "flatness_levels": (0, 1),
    "perturbation_scales": (1.0,),
    "retraining_chains": ("imp", "lr_rewinding"),
    "retraining_levels": 1,
    "criteria": ("magnitude",),
    "criteria_levels": (1,),
}


def lab(bench, **changes):
    return bench.lab(**{"grids": GRIDS, "rewind_steps": (6,), "replicates": 1, "level_0": "rewound"} | changes)


def test_no_experiment_with_a_rewind_step_uses_the_uninterrupted_run_but_for_its_checkpoints(bench):
    planned = lab(bench)
    measurements = measured(EVERYWHERE, planned)
    assert {m.experiment for m in measurements} == set(EVERYWHERE)
    dense = planned.dense(0).key
    used = {f.name for stage in plan_of(measurements).stages for f in stage.inputs.values() if f.stage.key == dense}
    assert used == {"step-0.safetensors", "step-6.safetensors"}
    rows = {m.variant for m in measurements if m.stage.key == dense} | {
        m.variant for m in measurements if m.network is not None and m.network.key == dense
    }
    assert rows == {"dense"}


def test_it_costs_a_training_for_each_rewind_step_above_0_and_replicate(bench):
    grids = {"variants": ("random", "reinit")}
    changes = {"grids": grids, "rewind_steps": (0, 3, 6), "replicates": 2}
    imp = {"imp": EXPERIMENTS["imp"]}
    rewound, shared = (
        len(plan_of(measured(imp, lab(bench, **changes, level_0=choice))).trainings())
        for choice in ("rewound", "uninterrupted")
    )
    assert rewound == shared + 2 * 2


def test_rewound_to_step_0_it_is_the_dense_network(bench):
    assert lab(bench).ticket(0, 0, 0).key == lab(bench).dense(0).key


def test_it_starts_from_the_checkpoint_without_momentum_and_level_1_prunes_it(bench):
    network = lab(bench).ticket(0, 6, 0)
    assert (network.start_step, network.mask, network.momentum) == (6, None, None)
    assert network.weights == lab(bench).checkpoint(0, 6)
    assert lab(bench).mask(0, 6, 1).stage.inputs["weights"].stage.key == network.key


def test_with_restored_momentum_it_ends_with_the_bytes_of_the_uninterrupted_run(bench):
    restored = lab(bench, rewound_momentum="restored")
    ends = [bench.path(network.final) for network in _ran(bench, restored.ticket(0, 6, 0), restored.dense(0))]
    assert ends[0] != ends[1] and ends[0].read_bytes() == ends[1].read_bytes()
    fresh, dense = (bench.path(n.final) for n in _ran(bench, lab(bench).ticket(0, 6, 0), restored.dense(0)))
    assert fresh.read_bytes() != dense.read_bytes()


def _ran(bench, *networks: Train) -> tuple[Train, ...]:
    bench.run(*(network.want(network.final) for network in networks))
    return networks


@pytest.mark.parametrize(("choice", "steps"), [("rewound", {0, 6}), ("uninterrupted", set())])
def test_imp_has_a_row_of_level_0_for_each_rewind_step_where_it_was_trained(bench, choice, steps):
    planned = lab(bench, level_0=choice, rewind_steps=(0, 6))
    found = list(EXPERIMENTS["imp"](planned))
    assert {m.rewind_step for m in found if (m.variant, m.level) == ("imp", 0)} == steps
    assert [m.stage.key for m in found if m.variant == "dense"] == [planned.dense(0).key]


def test_where_every_training_has_its_own_order_so_has_each_level_0(bench):
    each = lab(bench, reshuffle="level")
    orders = {each.dense(0).seeds.order, each.ticket(0, 3, 0).seeds.order, each.ticket(0, 6, 0).seeds.order}
    assert len(orders) == 3
    shared = lab(bench, reshuffle="level", level_0="uninterrupted")
    assert shared.seeds(0, 0, 6) == shared.dense(0).seeds


def test_the_report_shows_its_own_error_and_not_the_dense_networks():
    rows = [
        Row("s", "mini", "imp", variant, replicate, step, level, 0.8**level, "test_error", error)
        for replicate in (0, 1)
        for variant, step, level, error in (
            ("dense", None, 0, 0.01),
            ("imp", 0, 1, 0.02),
            ("imp", 6, 0, 0.03),
            ("imp", 6, 1, 0.04),
        )
    ]
    found = levels(Data(rows, {}))
    assert [found.at("imp", step, 0).error.mean for step in (0, 6)] == [0.01, 0.03]
    assert found.dense.mean == 0.01
