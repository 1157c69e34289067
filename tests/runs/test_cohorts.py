"""Which trainings may be made side by side, and how many."""

import dataclasses

import pytest

from sparselt.runs import cohorts
from sparselt.runs.cohorts import best_size, group_of, mates_of
from sparselt.runs.kinds import Task
from sparselt.runs.kinds.together import best_cohort


def with_spec(stage, **changes):
    return dataclasses.replace(stage, spec={**stage.spec, **changes})


def test_replicates_tickets_and_learning_rates_join(bench):
    lab, other_rate = bench.lab(), bench.lab(lr=0.2, warmup_steps=3)
    one = lab.dense(0)
    alike = [lab.dense(1), lab.ticket(0, 0, 1), lab.reinit_control(0, 6, 2), other_rate.dense(0)]
    assert mates_of(one, alike) == alike


def test_what_changes_the_step_or_takes_much_longer_does_not_join(bench):
    lab = bench.lab()
    one = lab.dense(0)
    others = [
        bench.lab(batch_size=32).dense(0),
        bench.lab(momentum=0.8).dense(0),
        bench.lab(precision="bfloat16").dense(0),
        bench.lab(padding=2).dense(0),
        bench.lab(threads=2).dense(0),
        lab.ticket(0, 6, 1),  # a quarter shorter
        with_spec(one, device="cuda"),
        lab.mask(0, 0, 1).stage,
        lab.dataset,
    ]
    assert mates_of(one, others) == []


def test_decoupled_decay_joins_only_under_one_schedule(bench):
    labs = [bench.lab(decoupled_weight_decay=True, lr=lr) for lr in (0.1, 0.2)]
    assert group_of(labs[0].dense(0)) == group_of(labs[0].dense(1)) != group_of(labs[1].dense(0))


def test_trainings_that_need_the_loop_stay_alone(bench):
    lab, mild = bench.lab(), bench.lab(techniques="mild", batch_size=64)
    one = lab.dense(0)
    for stage in (mild.dense(0), with_spec(one, engine="streaming"), with_spec(one, repulsion=2.0)):
        assert group_of(stage) is None and mates_of(stage, [lab.dense(0), stage]) == []


def test_a_size_is_measured_on_real_networks(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(cohorts, "SIZES", (1, 2))
    stage = bench.lab(steps=20, milestones=(), batch_size=16).dense(0)
    bench.run(*(need.stage for need in stage.needs.values()))
    inputs = {name: bench.store.folder(need.stage) / need.file for name, need in stage.needs.items()}
    task = Task(stage.spec, inputs, stage.outputs, tmp_path, lambda steps: None, {})
    assert best_cohort(task) in (1, 2)


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ({1: 100, 2: 190, 4: 350, 8: 360, 16: 365}, 4),
        ({1: 100, 2: 100, 4: 99, 8: 100, 16: 100}, 1),
        ({1: 100, 2: 200, 4: 400, 8: 800, 16: 1600}, 16),
        ({1: 100, 2: 190}, 2),
        ({}, 1),
    ],
)
def test_the_smallest_size_near_the_best_is_taken(speeds, best):
    asked = []

    def speed(size):
        asked.append(size)
        return speeds.get(size)

    assert best_size(speed) == best
    assert asked == [1, 2, 4, 8, 16][: len(speeds) + 1], "nothing larger is tried once one does not fit"
