"""`--set winograd=true`: which stages it changes, and that their results differ by rounding alone."""

import sys

import pytest

from sparselt.errors import SettingError
from sparselt.experiments.checks import winograd_would_pay
from sparselt.experiments.lab import Lab
from sparselt.reproduce import load_setting

NETWORKS = """
from torch import nn

def wide(classes, channels):
    layers = nn.Conv2d(channels, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))

def narrow(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def path_of(lab: Lab):
    tickets = [lab.ticket(0, 0, level) for level in (0, 1)]
    return lab.path(*tickets, label="path")


def test_trainings_and_evaluations_have_other_keys_and_without_it_the_old_ones(bench):
    plain, same, changed = (bench.lab(**given) for given in ({}, {"winograd": False}, {"winograd": True}))
    for stage_of in (lambda lab: lab.dense(0), path_of):
        keys = [stage_of(lab).key for lab in (plain, same, changed)]
        assert keys[0] == keys[1] != keys[2]


def test_an_own_network_takes_it_and_fused_norms(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_wide.py").write_text(NETWORKS)
    setting = load_setting("digits_resnet8", "smoke")
    for option in ({"winograd": True}, {"fused_norm": True}, {"winograd": True, "fused_norm": True}):
        assert setting.changed(model="own_wide:wide", **option).checked().model == "own_wide:wide"
    with pytest.raises(SettingError, match="own_wide:narrow has no 3×3 convolution of stride 1"):
        setting.changed(model="own_wide:narrow", winograd=True).checked()
    sys.modules.pop("own_wide")


def test_a_gpu_has_no_such_stages(bench):
    setting = bench.setting(winograd=True)
    on_gpu = Lab(setting, device="cuda")
    assert not on_gpu.dense(0).recipe.winograd and path_of(on_gpu).winograd is None
    assert Lab(setting).dense(0).recipe.winograd and path_of(Lab(setting)).winograd


def test_a_run_that_would_gain_much_is_told_so():
    setting = load_setting("cifar10_resnet20", "mini")
    assert winograd_would_pay(setting.changed(precision="float32"))
    assert not winograd_would_pay(setting.changed(precision="bfloat16"))
    assert not winograd_would_pay(setting.changed(precision="float32", winograd=True))
    assert not winograd_would_pay(load_setting("digits_resnet8", "mini"))
    assert not winograd_would_pay(load_setting("mnist_lenet", "mini"))


def test_results_differ_by_rounding_alone(bench):
    errors = {}
    for winograd in (False, True):
        lab = bench.lab(winograd=winograd)
        errors[winograd] = bench.read(path_of(lab).measured)
    assert errors[True].errors == pytest.approx(errors[False].errors, abs=0.01)
    assert errors[True].losses == pytest.approx(errors[False].losses, rel=1e-3)
    assert errors[True].losses != errors[False].losses
