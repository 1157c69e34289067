"""What stages declare, and how many of them a machine serves."""

import dataclasses

from sparselt.stages.resources import Resources


def test_a_training_takes_the_threads_of_its_recipe_and_others_their_own(bench):
    lab = bench.lab(threads=2)
    training = lab.dense(0)
    assert training.resources == Resources(2)
    assert dataclasses.replace(training, device="cuda").resources == Resources(2, 1.0)
    assert lab.mask(0, 0, 1).stage.resources == Resources()


def test_a_machine_serves_as_many_as_fit_its_cores_and_its_gpus():
    assert [Resources(cores).fits(7, 0) for cores in (1, 2, 8)] == [7, 3, 0]
    assert Resources(2, 0.25).fits(64, 2) == 8 and Resources(2, 0.1).fits(64, 1) == 10
    assert Resources(2, 1.0, ranks=4).fits(64, 8) == 2 and Resources(2, 1.0, ranks=4).fits(7, 8) == 0


def test_a_smaller_stage_fits_the_place_of_a_larger_one():
    assert Resources(1).within(Resources(2, 1.0)) and not Resources(1, 1.0).within(Resources(2))
    assert Resources(1, 0.5, ranks=2).within(Resources(2, 1.0))
