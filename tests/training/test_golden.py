"""Frozen losses; golden.py says what they are and how their tolerance was chosen."""

import json

import golden
import pytest


@pytest.mark.parametrize("name", golden.SETTINGS)
def test_losses_are_the_frozen_ones_and_equal_to_the_bit_in_two_runs(name):
    first = golden.losses(name)
    assert golden.difference(first, json.loads(golden.FILE.read_text())[name]) < golden.RELATIVE
    assert golden.losses(name) == first


@pytest.mark.parametrize(("name", "change"), [("digits_resnet8", {"weight_decay": 0.0})])
def test_a_small_change_of_the_algorithm_is_noticed(name, change):
    frozen = json.loads(golden.FILE.read_text())[name]
    assert golden.difference(golden.losses(name, **change), frozen) > golden.RELATIVE
