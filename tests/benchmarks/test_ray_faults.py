"""What the harness of Ray's faults makes of the steps it has logged, and when it fails. It runs by itself, with Ray."""

import pytest

from sparselt.benchmarks.ray_faults import failures, longest_step, made_again

FOUND = {
    "kills_asked": 4,
    "kills": {"worker": 1, "actor": 1, "node": 1, "run": 1},
    "trainings_killed": 5,
    "trainings_taken_up_again": 5,
    "most_seconds_made_again": 2.1,
    "longest_step_seconds": 0.1,
    "save_seconds": 2.0,
    "equal": True,
}


def test_a_training_that_another_process_goes_on_with_has_made_again_what_came_after_its_last_save():
    first = [(float(step), 7, "a", step) for step in range(6)]
    second = [(10.0 + step, 8, "a", step) for step in range(2, 9)]
    beside = [(0.5, 9, "b", 0), (20.0, 9, "b", 1)]
    assert made_again(first + beside + second) == [3.0], "it stood at step 5, and went on from step 2"
    assert longest_step(first + second) == 1.0 and longest_step(beside) == 19.5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kills": {"worker": 0, "actor": 0, "node": 0, "run": 0}}, "worker: 0 kills; expected 1 or more"),
        ({"kills": {"worker": 2, "actor": 2, "node": 0, "run": 0}}, "node: 0 kills; expected 1 or more"),
        ({"kills_asked": 5}, "4 of 5 kills happened in time"),
        ({"trainings_taken_up_again": 4}, "5 trainings were killed, and 4 taken up again"),
        ({"most_seconds_made_again": 2.3}, "2.30 s were made again; expected at most 2.20"),
        ({"equal": False}, "results.csv differs"),
    ],
)
def test_a_fault_that_did_not_happen_or_was_not_mended_is_a_failure(changes, sentence):
    assert failures(FOUND) == []
    assert any(sentence in told for told in failures(FOUND | changes))
