"""Where each number of a protocol comes from: a source, ours, or a plain default."""

import dataclasses
import inspect
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sparselt.experiments.display import print_plan
from sparselt.experiments.record import protocol
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import rules
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store


def sources(values=()):
    usual = load_setting("digits_resnet8", "mini").checked()
    return {name: source for name, _, source in protocol(usual.with_values(values).checked(), usual)}


def test_a_value_without_a_source_is_a_plain_default_or_ours():
    found = sources()
    assert found["momentum"] == "Paul et al. 2022, appendix C"
    assert (found["padding"], found["landscape_levels"]) == ("ours", "ours")
    assert (found["flip"], found["lr_factor"], found["flatness_eigenvalues"]) == ("default",) * 3
    assert (found["nesterov"], found["initialization"]) == ("torch's default",) * 2


def test_a_default_that_was_changed_is_no_default():
    assert sources(["flip=true"])["flip"] == "ours" and sources(["nesterov=true"])["nesterov"] == "ours"


def test_what_a_shorter_schedule_leaves_out_is_named_and_kept_where_it_is_checked_again():
    usual = load_setting("digits_resnet8", "mini").checked()
    assert usual.left_out == ()
    short = usual.with_values(
        ["levels=4", "steps=150", "milestones=75,110", "rewind_steps=0,60", "stability_levels=4"]
    ).checked()
    assert short.control_levels == (4,)
    assert {"control_levels 8, 12", "instability_levels 8", "landscape_levels 11", "flatness_levels 8, 12"} <= {
        *short.left_out
    }
    assert short.checked().left_out == short.left_out
    console = Console(file=io.StringIO(), width=400)
    print_plan(console, short, Plan([]), [], Store(Path("none"), writable=False), [], {})
    assert "Past the last level (4) or step (150), and left out: control_levels 8, 12; inst" in console.file.getvalue()


@pytest.mark.parametrize("name", ["nesterov", "betas", "eps", "alpha", "centered"])
def test_what_is_called_torchs_default_is_torchs(name):
    optimizers = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)
    taken = [p[name].default for o in optimizers if name in (p := inspect.signature(o).parameters)]
    default = next(field.default for field in dataclasses.fields(Setting) if field.name == name)
    assert rules(Setting)[name][1].torch_default and taken and all(value == default for value in taken)
