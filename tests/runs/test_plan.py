import dataclasses

from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.display import trainings_alone
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.plan import Plan


def measurements(setting, *names):
    lab = Lab(setting.checked())
    return [m for name in names or EXPERIMENTS for m in EXPERIMENTS[name](lab)]


def plan_of(found):
    return Plan(stage for m in found for stage in m.stages)


MAIN = MINI.changed(**MINI.main_values)


def test_the_digits_take_202_trainings_however_many_experiments_ask():
    both, imp = measurements(MAIN, "imp", "connectivity"), measurements(MAIN, "imp")
    assert len(plan_of(both).trainings()) == len(plan_of(imp).trainings()) == 202
    assert sum(stage.work for stage in plan_of(both).trainings()) == 104_600
    # 12 dense; in each of 5 replicates 3 rewind steps of 13 for either experiment, and a chain of 12 levels that the
    # control's mask needs, with one training, for either control.
    assert trainings_alone(both) == 12 + 5 * (2 * 39 + 2 * 13) == 532


def test_one_dense_training_serves_every_rewind_step():
    plan = plan_of(measurements(MAIN, "imp", "connectivity"))
    dense = [stage for stage in plan.trainings() if "mask" not in stage.inputs]
    assert len(dense) == MINI.dense_replicates == 12
    wanted = {
        "step-0.safetensors",
        "step-60.safetensors",
        "step-200.safetensors",
        "final.safetensors",
        "measurements.json",
    }
    assert [stage.outputs for stage in dense].count(frozenset(wanted)) == MINI.replicates


def test_no_two_measurements_of_all_experiments_stand_in_the_same_cells():
    found = measurements(MINI)
    cells = [
        (m.experiment, m.variant, m.replicate, m.rewind_step, m.level, m.to_level, m.condition, m.stage.key)
        for m in found
    ]
    assert len(set(cells)) == len(cells)


def test_every_stage_comes_after_what_it_needs():
    seen = set()
    for stage in plan_of(measurements(MINI)).stages:
        assert all(need.stage.key in seen for need in stage.inputs.values())
        seen.add(stage.key)


def test_a_longer_chain_goes_first():
    plan = plan_of(measurements(MINI, "imp"))
    work = plan.remaining_work()
    for stage in plan.stages:
        for need in stage.inputs.values():
            assert work[need.stage.key] > work[stage.key]


def test_a_chain_of_a_hundred_levels_is_planned():
    deep = dataclasses.replace(
        MAIN, levels=100, fraction=0.05, replicates=1, dense_replicates=0, rewind_steps=(0,), control_levels=()
    )
    assert len(plan_of(measurements(deep, "imp", "connectivity")).trainings()) == 101


def test_another_replicate_count_keeps_the_trainings_of_the_first_replicates():
    few, many = (
        {
            stage.key
            for stage in plan_of(measurements(dataclasses.replace(MINI, replicates=n, dense_replicates=0))).trainings()
        }
        for n in (2, 3)
    )
    assert few < many
