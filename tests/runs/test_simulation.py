"""The simulated schedule of a plan on many workers."""

import pytest

from sparselt.runs.plan import Plan
from sparselt.runs.simulation import RESTART, SAVE, simulate


@pytest.fixture
def plan(bench) -> Plan:
    lab = bench.lab()
    return Plan([lab.ticket(0, 0, 2), lab.ticket(0, 6, 1), lab.ticket(1, 0, 1)])


def hour_a_training(stage):
    return 3600.0 if stage.kind == "train" else 0.0


def test_one_worker_does_all_in_turn_and_many_take_as_long_as_the_longest_chain(plan):
    trainings = len(plan.trainings())
    one, many = (simulate(plan, hour_a_training, workers, 1e9) for workers in (1, 100))
    assert one.seconds == 3600 * trainings and one.busy == 1
    assert many.seconds == 3 * 3600, "the dense network and two levels"
    assert many.busy == pytest.approx(trainings / 300)


def test_workers_never_make_it_slower_and_the_time_is_at_least_the_mean_share(plan):
    seconds = [simulate(plan, hour_a_training, workers, 1e9).seconds for workers in range(1, 6)]
    assert seconds == sorted(seconds, reverse=True)
    assert all(s >= seconds[0] / (k + 1) for k, s in enumerate(seconds))


def test_preemptions_cost_half_an_interval_and_a_restart_each(plan):
    schedule = simulate(plan, hour_a_training, 2, 1800.0)
    assert schedule.preempted == pytest.approx(schedule.seconds * (1 + (SAVE / 2 + RESTART) / 1800))
