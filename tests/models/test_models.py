import dataclasses

import pytest
import torch

from sparselt.errors import SettingError
from sparselt.models import MODELS, blank_model, build_model, check_model, least_weights, prunable_shapes
from sparselt.models.registry import images_of
from sparselt.reproduce import load_setting
from sparselt.training.loop import training_loss
from sparselt.weights import prunable_parameters

COUNTS = [
    ("resnet8", 1, 10, 8, 19_810, 19_464),
    ("resnet8_wide", 1, 10, 28, 77_754, 77_072),
    ("resnet20", 3, 10, 32, 272_474, 270_896),
    ("lenet_300_100", 1, 10, 28, 266_610, 266_200),
    ("conv4", 3, 10, 32, 2_425_930, 2_425_024),
    ("vgg19", 3, 10, 32, 20_040_522, 20_024_000),
    ("vgg19_dense_classifier", 3, 10, 32, 20_040_522, 20_018_880),
    ("resnet18", 3, 100, 32, 11_220_132, 11_210_432),
    ("resnet50", 3, 1000, 64, 25_557_032, 25_502_912),
    ("resnet50_blurpool", 3, 1000, 64, 25_557_032, 25_502_912),
    ("inception_v3", 3, 1000, 299, 27_161_264, 27_123_040),
    ("squeezenet", 3, 1000, 64, 1_248_424, 1_244_448),
]


@pytest.mark.parametrize(("name", "channels", "classes", "side", "parameters", "prunable"), COUNTS)
def test_a_network_has_its_papers_counts_and_answers_for_every_image(
    name, channels, classes, side, parameters, prunable
):
    model = build_model(name, classes=classes, channels=channels, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for _, p in prunable_parameters(model)) == prunable
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, channels, side, side)).shape == (2, classes)


@pytest.mark.parametrize(("name", "channels", "classes", "side"), [row[:4] for row in COUNTS])
def test_a_blank_network_with_the_state_of_another_is_that_network(name, channels, classes, side, monkeypatch):
    model = build_model(name, classes=classes, channels=channels, seed=0).eval()
    empty = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *args, **options: empty(*args, **options).fill_(7))
    blank = blank_model(name, classes, channels).eval()
    monkeypatch.undo()
    blank.load_state_dict(model.state_dict())
    strides = [[p.stride() for p in network.parameters()] for network in (blank, model)]
    assert strides[0] == strides[1]
    images = torch.rand(2, channels, side, side)
    with torch.no_grad():
        assert torch.equal(blank(images), model(images))


def test_every_model_is_counted_here():
    assert {row[0] for row in COUNTS} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_some_layer_has_the_least_weights_for_any_images_and_classes(name):
    channels = images_of(MODELS[name]).channels or 1
    assert max(shape.numel() for shape in prunable_shapes(name, 2, channels).values()) >= least_weights(name)


def test_the_least_weights_of_models_are_those_of_the_smallest_network():
    assert max(shape.numel() for shape in prunable_shapes("resnet8", 2, 1).values()) == least_weights("resnet8")


def test_the_seed_alone_decides_the_initial_weights():
    def weights(seed: int) -> torch.Tensor:
        model = build_model(
            "resnet8", classes=10, channels=1, seed=seed, initialization="kaiming_normal", norm_scale="uniform"
        )
        return torch.cat([p.flatten() for p in model.parameters()])

    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_kaiming_normal_has_its_variance_and_leaves_norms_alone():
    model = build_model("resnet18", classes=10, channels=3, seed=0, initialization="kaiming_normal")
    for name, weight in prunable_parameters(model):
        fan_in = weight[0].numel()
        # The standard deviation of n normal draws is uncertain by 1 / sqrt(2n).
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=4 / (2 * weight.numel()) ** 0.5), name
    assert torch.equal(model.norm.weight, torch.ones(64))


def test_low_res_has_the_variances_of_torchvisions_resnet_with_a_new_first_layer():
    from torchvision.models import resnet18

    torchvision = resnet18(weights=None, num_classes=10)
    torchvision.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model = build_model("resnet18", classes=10, channels=3, seed=0, initialization="low_res")

    pairs = zip(prunable_parameters(model), prunable_parameters(torchvision), strict=True)
    for (name, ours), (_, theirs) in pairs:
        assert ours.shape == theirs.shape
        # Each standard deviation of n draws is uncertain by 1 / sqrt(2n), of uniform ones by less.
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=6 / (2 * ours.numel()) ** 0.5), name
    assert model.conv.weight.abs().max() <= 27**-0.5 < 3 * model.conv.weight.std()  # uniform, as torch draws it


def test_uniform_norm_scales_fill_0_to_1_with_shifts_of_0():
    model = build_model("resnet18", classes=10, channels=3, seed=0, norm_scale="uniform")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    scales = torch.cat([norm.weight.detach() for norm in norms])
    assert 0 <= scales.min() < 0.01 and 0.99 < scales.max() < 1
    assert scales.mean().item() == pytest.approx(0.5, abs=0.03)
    assert not any(norm.bias.any() for norm in norms)


def test_an_auxiliary_classifier_counts_two_fifths():
    main, auxiliary, labels = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    loss = torch.nn.CrossEntropyLoss()
    expected = loss(main, labels) + 0.4 * loss(auxiliary, labels)
    torch.testing.assert_close(training_loss((main, auxiliary), labels), expected)
    torch.testing.assert_close(training_loss(main.bfloat16(), labels), loss(main.bfloat16().float(), labels))


@pytest.mark.parametrize(
    ("name", "channels", "side", "message"),
    [
        ("lenet", 1, 28, "unknown model 'lenet'"),
        ("squeezenet", 1, 64, "3 channels, not 1"),
        ("conv4", 3, 64, "32×32 pixels, not 64"),
        ("inception_v3", 3, 64, "299 pixels a side or more, not 64"),
        ("resnet50_blurpool", 3, 16, "17 pixels a side or more, not 16"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(name, channels, side, message):
    with pytest.raises(SettingError, match=message):
        check_model(name, channels, side)


def test_blurred_resnet50_takes_its_least_side():
    model = build_model("resnet50_blurpool", classes=10, channels=3, seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 17, 17)).shape == (1, 10)


def test_images_that_progressive_resizing_makes_too_small_are_refused():
    setting = load_setting("imagenet_resnet50_mild", "smoke")
    with pytest.raises(SettingError, match="17 pixels a side or more, not 16"):
        dataclasses.replace(setting, train_size=32).checked()
    with pytest.raises(SettingError, match="micro_batches is 3"):
        dataclasses.replace(setting, micro_batches=3).checked()
