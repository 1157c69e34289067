"""The recipe names its optimizer, and recipes with SGD keep the identity they had before they could."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from optim_cases import give_gradients, network, random_mask

from sparselt import MaskedSGD
from sparselt.errors import SettingError
from sparselt.experiments.record import protocol
from sparselt.optim import RECIPE_OPTIONS, build_optimizer
from sparselt.optim._networks import mask_of_networks
from sparselt.reproduce import load_setting
from sparselt.stages.identity import digest, to_json
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule

RECIPE = Recipe("resnet20", 128, 62_400, Schedule("step", 0.1, (31_200, 46_800)), weight_decay=1e-4, threads=2)


def test_the_digest_of_a_recipe_with_sgd_is_that_of_a_recipe_without_the_field():
    # Computed before recipes had an optimizer.
    assert digest(RECIPE) == "a5ecd06cc0b143b95ae3128c40cf4caba18af109422b65086ca7c3112fb43ecf"
    assert "optimizer" not in to_json(RECIPE)


def test_a_field_is_left_out_only_where_it_has_its_default():
    @dataclasses.dataclass
    class Values:
        kept: int = 1
        left_out: int = dataclasses.field(default=2, metadata={"omit_default": True})

    assert to_json(Values()) == {"kept": 1}
    assert to_json([Values(left_out=3)]) == [{"kept": 1, "left_out": 3}]


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(SettingError, match="no optimizer 'adamm'; expected one of adam, adamw, rmsprop, sgd"):
        dataclasses.replace(RECIPE, optimizer="adamm")
    for helper in ("_base", "_arena"):
        with pytest.raises(SettingError, match=f"no optimizer '{helper}'"):
            dataclasses.replace(RECIPE, optimizer=helper)


def test_naming_an_optimizer_loads_no_torch():
    program = "import sys; from sparselt.optim import check_optimizer as c; c('sgd'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_recipe_builds_its_optimizer():
    ours, theirs = network(), network()
    mask = random_mask(ours)
    recipe = dataclasses.replace(RECIPE, nesterov=True, weight_decay=0.1, decoupled_weight_decay=True)
    built = build_optimizer(recipe, ours.named_parameters(), mask)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "decoupled_weight_decay": True}
    expected = MaskedSGD(theirs.named_parameters(), mask=mask, **options)
    assert type(built) is MaskedSGD and built.mask is mask
    for step in range(3):
        for model, optimizer in ((ours, built), (theirs, expected)):
            give_gradients(model, step)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_options_that_the_optimizer_does_not_have_are_refused_by_name():
    with pytest.raises(SettingError, match=r"betas is given, but sgd has no such option: leave it out"):
        dataclasses.replace(RECIPE, betas=(0.8, 0.9))
    with pytest.raises(SettingError, match="momentum is given, but adam has no such option"):
        dataclasses.replace(RECIPE, optimizer="adam", momentum=0.5)
    with pytest.raises(SettingError, match="decoupled_weight_decay is given, but adamw has no such option"):
        dataclasses.replace(RECIPE, optimizer="adamw", decoupled_weight_decay=True)


@pytest.mark.parametrize("optimizer", RECIPE_OPTIONS)
def test_every_optimizer_takes_the_options_that_a_recipe_gives_it(optimizer):
    optimizer = build_optimizer(dataclasses.replace(RECIPE, optimizer=optimizer), network().named_parameters())
    assert optimizer.param_groups[0]["lr"] == 0.1 and optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_a_setting_shows_and_passes_on_the_options_of_its_optimizer_only():
    usual = load_setting("digits_resnet8")
    adam = usual.with_values(["optimizer=adam", "lr=0.001", "betas=0.9,0.9"]).checked()
    shown = {name for name, _, _ in protocol(adam, usual)}
    assert {"optimizer", "betas", "eps", "weight_decay"} <= shown and not {"momentum", "nesterov", "alpha"} & shown
    assert {"momentum", "nesterov"} <= {name for name, _, _ in protocol(usual, usual)}
    assert adam.recipe.betas == (0.9, 0.9)
    assert adam.recipe == dataclasses.replace(adam, momentum=0.5, alpha=0.5).recipe


def test_masks_of_networks_are_merged_under_the_names_of_one_optimizer():
    mask = random_mask(network())
    assert mask_of_networks([network(), network()], [None, mask]).keys() == {f"1.{name}" for name in mask}
    assert mask_of_networks([network()], [None]) is None
