"""The experiment on what retraining makes small: its numbers against plain lines, its plan against that of imp."""

import math

import numpy as np
import pytest
import torch

from sparselt import Mask
from sparselt.analysis.histograms import magnitude_shares, pruned_size
from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan


def test_size_is_the_root_mean_square_of_the_smallest_over_that_of_all_live_weights():
    weights = {"a": torch.tensor([[3.0, -1.0], [9.0, 2.0]]), "b": torch.tensor([0.5, -4.0, 100.0])}
    mask = Mask({"a": torch.tensor([[True, True], [False, True]]), "b": torch.tensor([True, True, False])})
    live = np.array([3.0, 1.0, 2.0, 0.5, 4.0])
    expected = math.sqrt((0.25 + 1.0) / 2 / np.mean(live**2))
    assert pruned_size(weights, mask, 0.4) == pytest.approx(expected)
    shares = magnitude_shares(weights, mask, 6)
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert [middle for middle, _ in shares] == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75])


def test_equal_magnitudes_have_size_one_and_none_alive_are_refused():
    weights, mask = {"a": torch.tensor([2.0, -2.0])}, Mask({"a": torch.tensor([True, True])})
    assert pruned_size(weights, mask, 0.5) == 1
    with pytest.raises(SettingError, match="no weight is alive"):
        pruned_size(weights, Mask({"a": torch.tensor([False, False])}), 0.5)


def test_digits_share_every_training_with_imp():
    setting = load_setting("digits_resnet8").checked()
    lab = Lab(setting)
    plan = Plan(stage for m in EXPERIMENTS["imp"](lab) for stage in m.stages)
    trainings = {stage.key for stage in plan.trainings()}
    own = Plan(stage for m in EXPERIMENTS["retraining"](lab) for stage in m.stages)
    assert {stage.key for stage in own.trainings()} < trainings


def test_every_level_is_measured_with_and_without_retraining(bench):
    grids = {"retraining_chains": ("imp", "fine_tuning"), "retraining_levels": 2}
    found = {}
    for m in EXPERIMENTS["retraining"](bench.lab(grids=grids, replicates=1)):
        bench.run(*m.stages)
        for row in m.rows(bench.store.read):
            if row["metric"] == "pruned_size":
                found[row["variant"], row["level"], row["condition"]] = row["value"]
    names = ("retrained=yes", "retrained=no")
    assert found.keys() == {(v, level, c) for v in ("imp", "fine_tuning") for level in (1, 2) for c in names}
    assert all(0 < value < 1 for value in found.values())
