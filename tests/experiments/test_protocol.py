"""Where each number of a protocol comes from: a source, ours, or a plain default."""

import dataclasses
import inspect

import pytest
import torch

from sparselt.experiments.record import protocol
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import rules
from sparselt.reproduce import load_setting


def sources(values=()):
    usual = load_setting("digits_resnet8", "mini").check()
    return {name: source for name, _, source in protocol(usual.with_values(values).check(), usual)}


def test_a_value_without_a_source_is_a_plain_default_or_ours():
    found = sources()
    assert found["momentum"] == "Paul et al. 2022, appendix C"
    assert (found["padding"], found["landscape_levels"]) == ("ours", "ours")
    assert (found["flip"], found["lr_factor"], found["flatness_eigenvalues"]) == ("default",) * 3
    assert (found["nesterov"], found["initialization"]) == ("torch's default",) * 2


def test_a_default_that_was_changed_is_no_default():
    assert sources(["flip=true"])["flip"] == "ours" and sources(["nesterov=true"])["nesterov"] == "ours"


@pytest.mark.parametrize("name", ["nesterov", "betas", "eps", "alpha", "centered"])
def test_what_is_called_torchs_default_is_torchs(name):
    optimizers = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)
    taken = [p[name].default for o in optimizers if name in (p := inspect.signature(o).parameters)]
    default = next(field.default for field in dataclasses.fields(Setting) if field.name == name)
    assert rules(Setting)[name][1].torch and taken and all(value == default for value in taken)
