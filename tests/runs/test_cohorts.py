"""Which trainings may be made side by side, and how many."""

import dataclasses
from types import SimpleNamespace

import pytest
from stage_cases import task

from sparselt.runs.executor import _take
from sparselt.runs.workers import Workers
from sparselt.stages import side_by_side
from sparselt.stages.side_by_side import best_group_size, best_size


def test_replicates_tickets_and_learning_rates_join(bench):
    lab, other_rate = bench.lab(), bench.lab(lr=0.2, warmup_steps=3)
    one = lab.dense(0)
    alike = [lab.dense(1), lab.ticket(0, 0, 1), lab.reinit_control(0, 6, 2), other_rate.dense(0)]
    assert one.mates(alike) == alike


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
        dataclasses.replace(one, device="cuda"),
        lab.mask(0, 0, 1).stage,
        lab.dataset,
    ]
    assert one.mates(others) == []


def test_decoupled_decay_joins_only_under_one_schedule(bench):
    labs = [bench.lab(decoupled_weight_decay=True, lr=lr) for lr in (0.1, 0.2)]
    assert labs[0].dense(0).group == labs[0].dense(1).group != labs[1].dense(0).group


def test_trainings_that_need_the_loop_stay_alone(bench):
    lab, mild = bench.lab(), bench.lab(techniques="mild", batch_size=64)
    one = lab.dense(0)
    for stage in (mild.dense(0), dataclasses.replace(one, engine="streaming"), dataclasses.replace(one, repulsion=2.0)):
        assert stage.group is None and stage.mates([lab.dense(0), stage]) == []


def test_a_size_is_measured_on_real_networks(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "SIZES", (1, 2))
    stage = bench.lab(steps=20, milestones=(), batch_size=16).dense(0)
    bench.run(*(file.stage for file in stage.inputs.values()))
    inputs = {name: bench.path(file) for name, file in stage.inputs.items()}
    assert best_group_size(stage, stage.batches(task(stage, tmp_path, inputs))) in (1, 2)


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


def test_a_size_whose_capture_fails_is_named_and_the_best_one_before_it_stays(bench, tmp_path, monkeypatch, capsys):
    class Cohort:
        def __init__(self, size):
            self.size = size

        def images_per_second(self):
            if self.size > 4:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            return 100 * self.size

    monkeypatch.setattr(side_by_side, "_cohort", lambda stage, loader, size: Cohort(size))
    assert best_group_size(bench.lab().dense(0), None) == 4
    assert "8 networks side by side cannot be measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("free", "expected"), [([1, 1], [6, 6]), ([4, 3, 2, 1], [3, 3, 3, 3]), ([2, 1, 1], [6, 6]), ([20] * 12, [1] * 12)]
)
def test_a_level_wider_than_a_cohort_is_trained_in_equal_parts(bench, free, expected):
    lab = bench.lab(replicates=12)
    trainings = {stage.key: stage for stage in (lab.dense(replicate) for replicate in range(12))}
    ready = [((True, 0.0), key) for key in trainings]
    sizes = []
    for workers in free:
        if ready:
            sizes.append(len(_take(ready, trainings, Workers(1, 8), SimpleNamespace(root=None), workers)))
    assert sizes == expected and not ready
