"""What a lab refuses at once, and which of its stages are one."""

import numpy as np
import pytest

from sparselt.errors import SettingError
from sparselt.experiments import Experiment, Measurement
from sparselt.reproduce import SCALES, SETTINGS, load_setting


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fraction": 0}, "fraction is 0; expected a number between 0 and 1"),
        ({"fraction": 2}, "fraction is 2"),
        ({"scope": "x"}, "scope is 'x'"),
        ({"scope": ""}, "scope is ''"),
    ],
)
def test_pruning_that_cannot_be_done_is_refused_before_it_is_planned(bench, options, words):
    lab = bench.lab()
    with pytest.raises(SettingError, match=words):
        lab.pruned_mask(lab.dense(0), None, "mask", **options)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 0.1}, "setting digits_resnet8 has no value 'learning_rate'"),
        ({"level": 3}, "did you mean levels"),
        ({"scope": "layer"}, "scope is 'layer'; expected one of global, layerwise"),
        ({"precision": "fp8"}, "precision is 'fp8'; expected one of float32, bfloat16"),
        ({"lr": "a"}, "lr is 'a'; expected a number"),
        ({"lr": True}, "lr is True; expected a number"),
        ({"levels": 1.5}, "levels is 1.5; expected a whole number"),
        ({"flip": 1}, "flip is 1; expected True or False"),
        ({"model": 8}, "model is 8; expected a name"),
        ({"rewind_steps": 5}, "rewind_steps is 5; expected several in a tuple"),
        ({"rewind_steps": (0, "2ep")}, "rewind_steps is '2ep'; expected a whole number"),
        ({"sibling_densities": 0.2}, "sibling_densities is 0.2"),
        ({"flatness_levels": (0, 99)}, "flatness_levels: level 99 of a setting of"),
        ({"sibling_pretraining": (0, 10**6)}, "sibling_pretraining: step 1000000 is at or past the end of training"),
    ],
)
def test_values_that_cannot_be_changed_are_named(bench, values, words):
    with pytest.raises(SettingError, match=words):
        bench.lab().changed(**values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"steps": np.int64(24), "lr": np.float64(0.5)}, {"steps": 24.0, "lr": 0.5}),
        ({"milestones": [12, 18]}, {"milestones": (12, 18)}),
    ],
)
def test_trainings_that_agree_are_one_however_their_numbers_are_written(bench, one, other):
    assert bench.lab().changed(**one).dense(0).key == bench.lab().changed(**other).dense(0).key


def test_the_papers_numbers_are_of_their_fields_types_already():
    for name in SETTINGS:
        for scale in SCALES:
            setting = load_setting(name, scale)
            assert repr(setting._typed()) == repr(setting)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda lab: lab.ticket(0, 6, -1), "level is -1; expected a whole number from 0"),
        (lambda lab: lab.ticket(0, 0, 1.5), "level is 1.5"),
        (lambda lab: lab.mask(0, 0, 0), "level is 0; expected a whole number from 1"),
        (lambda lab: lab.ticket(0, 5000, 1), r"rewind step 5000 is at or past the end of training \(24 steps\)"),
        (lambda lab: lab.ticket(0, -1, 1), "rewind step -1 is no step"),
        (lambda lab: lab.checkpoint(0, 24), "rewind step 24"),
        (lambda lab: lab.rewound(0, 0.5, None, "half"), "rewind step 0.5 is no step"),
    ],
)
def test_levels_and_rewind_steps_that_are_none_are_refused_at_once(bench, ask, words):
    with pytest.raises(SettingError, match=words):
        ask(bench.lab())


def test_a_file_in_place_of_its_stage_is_refused_with_the_building_blocks_named(bench):
    lab = bench.lab()
    words = r"takes a Stage and got a StageFile; lab\.dense, ticket.*lab\.mask, checkpoint"
    with pytest.raises(TypeError, match=words):
        Measurement("mine", "imp", 0, 0, 1, lab.mask(0, 0, 1))
    with pytest.raises(TypeError, match=words):
        lab.path(lab.dense(0), lab.mask(0, 0, 1), "line")


def test_a_driver_without_a_docstring_has_an_empty_title():
    assert Experiment(lambda lab: iter(()), "nobody").title == ""
