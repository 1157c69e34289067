"""Labels of the ledger: no two stages of a plan have the same."""

from collections import Counter

import pytest

from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.reproduce import SETTINGS, load_setting
from sparselt.runs.plan import Plan

LARGE = [("digits_resnet8", "mini"), ("cifar10_conv4", "paper"), ("cifar10_resnet20", "paper")]


@pytest.mark.parametrize(("name", "scale"), [*((name, "smoke") for name in SETTINGS), *LARGE])
def test_labels_are_unique(name, scale):
    setting = load_setting(name, scale).checked()
    lab = Lab(setting)
    experiments = [each for each in EXPERIMENTS.values() if not each.unsupported_reason(setting)]
    plan = Plan(stage for each in experiments for measurement in each(lab) for stage in measurement.stages)
    labels = Counter(stage.label for stage in plan.stages)
    assert [label for label, count in labels.items() if count > 1] == []


def test_masks_of_labs_of_different_batch_sizes_say_so():
    lab = Lab(load_setting("digits_resnet8", "smoke").checked())
    masks = [each.mask(0, 0, 1).stage.label for each in (lab, lab.changed(batch_size=16), lab.changed(batch_size=128))]
    place = "mask, replicate 0, rewind 0, level 1"
    assert masks == [place, f"{place}; batch_size 16", f"{place}; batch_size 128"]
