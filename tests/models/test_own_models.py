"""A network of the user's own: by reference or entry point, known by its file, refused with what was expected."""

import sys

import pytest
import torch

from sparselt import own
from sparselt.errors import SettingError
from sparselt.models import MODELS, build_model, check_model, model_digest, prunable_shapes

NETWORKS = """
import numpy
import torch
from torch import nn

from sparselt.models import model


def tiny(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, classes))

@model(channels=3, side=8)
def colour(classes, channels):
    return tiny(classes, channels)

def fails(classes, channels):
    raise KeyError("width")

def takes_one(classes):
    return tiny(classes, 3)

def no_module(classes, channels):
    return tiny(classes, channels).state_dict()

def nothing_to_prune(classes, channels):
    return nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(channels), nn.Flatten())

def lazy(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def double(classes, channels):
    return tiny(classes, channels).double()

def infinite(classes, channels):
    network = tiny(classes, channels)
    nn.init.constant_(network[0].weight, float("nan"))
    return network

def unseeded(classes, channels):
    network = tiny(classes, channels)
    network[0].weight.data += float(numpy.random.default_rng().random())
    return network

def one_too_many(classes, channels):
    return tiny(classes + 1, channels)

def pair(classes, channels):
    class Pair(nn.Sequential):
        def forward(self, images):
            return super().forward(images), 1

    return Pair(*tiny(classes, channels))

def divides(classes, channels):
    class Divides(nn.Sequential):
        def forward(self, images):
            return super().forward(images) / images.sum()

    return Divides(*tiny(classes, channels))

def large(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 9), nn.Flatten(), nn.Linear(4, classes))

def tied(classes, channels):
    network = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Flatten(), nn.Linear(256, 256), nn.Linear(256, 256))
    network[3].weight = network[2].weight
    return network

three = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own_networks.py"
    path.write_text(NETWORKS)
    yield path
    sys.modules.pop("own_networks", None)
    prunable_shapes.cache_clear()
    own.entry_points.cache_clear()


def test_a_network_is_built_by_its_reference_from_the_seed_alone(module):
    def weights(seed):
        network = build_model("own_networks:tiny", classes=10, channels=1, seed=seed, initialization="kaiming_normal")
        return torch.cat([p.flatten() for p in network.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert prunable_shapes("own_networks:tiny", 10, 1) == {"0.weight": (4, 1, 3, 3), "4.weight": (10, 4)}
    check_model("own_networks:tiny", 1, 8, classes=10)


def test_a_network_that_a_package_announces_is_built_by_name(module, tmp_path):
    installed = tmp_path / "own_package-1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text("[sparselt.models]\ntiny = own_networks:tiny\n")
    own.entry_points.cache_clear()
    assert build_model("tiny", classes=5, channels=1, seed=0)[4].out_features == 5
    with pytest.raises(
        SettingError, match=r"unknown model 'tinny'; expected one of .*resnet8.*tiny.*package\.module:name"
    ):
        check_model("tinny", 1)


def test_its_file_is_part_of_what_it_is(module):
    before = model_digest("own_networks:tiny")
    module.write_text(NETWORKS.replace("4", "5"))
    assert model_digest("own_networks:tiny") != before
    assert model_digest("resnet8") is None


def test_a_network_that_says_which_images_it_takes_is_held_to_it(module):
    check_model("own_networks:colour", 3, 8)
    with pytest.raises(SettingError, match="colour takes images of 3 channels, not 1"):
        check_model("own_networks:colour", 1, 8)
    with pytest.raises(SettingError, match="colour takes images of 8×8 pixels, not 9"):
        check_model("own_networks:colour", 3, 9)
    assert not any("colour" in name for name in MODELS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"fails\(10, 3\) raised KeyError: 'width'; expected a function of \(classes, channels\)"),
        ("takes_one", "raised TypeError: .*expected a function of"),
        ("no_module", "returned a OrderedDict; expected a torch.nn.Module"),
        ("nothing_to_prune", "no convolution and no fully connected layer"),
        ("lazy", "'1.weight' has no shape before the first batch"),
        ("double", "'0.weight' is torch.float64 on cpu; expected torch.float32 on cpu"),
        ("infinite", "'0.weight' holds numbers that are not finite"),
        ("tied", "'2.weight' and '3.weight' are one parameter; expected each layer to have weights of its own"),
        ("three", "own_networks:three is a int; expected a function or a class"),
        ("absent", "module own_networks defines no 'absent'"),
    ],
)
def test_what_is_no_network_to_train_is_refused_when_it_is_built(module, name, message):
    for use in (
        lambda: build_model(f"own_networks:{name}", classes=10, channels=3, seed=0),
        lambda: prunable_shapes(f"own_networks:{name}", 10, 3),
        lambda: check_model(f"own_networks:{name}", 3, 8, classes=10),
    ):
        with pytest.raises(SettingError, match=message):
            use()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unseeded", "two different networks for one seed"),
        ("one_too_many", r"answers two images with \[2, 11\]; expected a tensor of shape \[2, 10\]"),
        ("pair", r"answers two images with tuple; expected a tensor of shape \[2, 10\]"),
        ("divides", "outputs that are not finite"),
        ("large", r"fails on images of shape \[2, 3, 8, 8\] \(RuntimeError: .*expected outputs of shape \[2, 10\]"),
    ],
)
def test_answers_of_another_shape_are_refused_before_anything_trains(module, name, message):
    with pytest.raises(SettingError, match=message):
        check_model(f"own_networks:{name}", 3, 8, classes=10)


def test_a_builtin_is_no_network_of_the_users():
    with pytest.raises(SettingError, match="no source file"):
        model_digest("math:sqrt")
