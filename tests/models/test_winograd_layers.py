"""Networks whose convolutions take Winograd's algorithm: which layers, with what result, and in which company."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparselt.models.winograd as room
from sparselt import Mask, densify_, sparsify_, winograd_
from sparselt.errors import SettingError
from sparselt.models import build_model
from sparselt.models.winograd import WinogradConv2d
from sparselt.training.folding import Folded
from sparselt.training.fused_norm import fused_forward
from sparselt.training.loop import evaluate, forward_passes
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the weights that Winograd's algorithm gets."""
    found, original = [], room.winograd_conv2d

    def counting(input, weight, *others, **options):
        found.append(tuple(weight.shape))
        return original(input, weight, *others, **options)

    monkeypatch.setattr(room, "winograd_conv2d", counting)
    return found


def resnet():
    return build_model("resnet20", classes=10, channels=3, seed=0)


def batch(count: int = 8) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 3, 32, 32).contiguous(memory_format=torch.channels_last)


def test_only_convolutions_of_the_kind_are_changed():
    layers = {
        "fits": nn.Conv2d(16, 32, 3, padding=1),
        "same": nn.Conv2d(16, 16, 3, padding="same", bias=False),
        "stride": nn.Conv2d(16, 16, 3, padding=1, stride=2),
        "groups": nn.Conv2d(16, 16, 3, padding=1, groups=2),
        "dilation": nn.Conv2d(16, 16, 3, padding=1, dilation=2),
        "padding": nn.Conv2d(16, 16, 3, padding=2),
        "reflect": nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        "point": nn.Conv2d(16, 16, 1),
        "few": nn.Conv2d(3, 16, 3, padding=1),
        "linear": nn.Linear(16, 16),
    }
    model = nn.ModuleDict(layers)
    names, keys = winograd_(model), list(model.state_dict())
    assert names == ["fits", "same"]
    assert winograd_(model) == names and list(model.state_dict()) == keys
    assert {name for name, layer in model.items() if type(layer) is WinogradConv2d} == {"fits", "same"}


def test_a_network_gives_the_same_up_to_rounding_and_so_do_its_gradients(calls):
    plain, images, labels = resnet(), batch(), torch.arange(8)
    changed = copy.deepcopy(plain)
    assert len(winograd_(changed)) == 16
    losses = [F.cross_entropy(model(images), labels) for model in (plain, changed)]
    assert len(calls) == 16
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(changed.parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() <= 1e-4 * theirs.grad.abs().max()


@pytest.mark.parametrize("images", [batch(), batch().contiguous(), batch(1)[0]], ids=["last", "first", "one image"])
def test_images_of_any_layout_are_taken(images):
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1))
    expected = network(images)
    winograd_(network)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_few_channels_under_autocast_and_changed_layers_compute_as_before(calls, dtype):
    plain, images = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), batch()[:, :1].repeat(1, 16, 1, 1)
    changed = copy.deepcopy(plain)
    winograd_(changed)
    with torch.autocast("cpu", dtype):
        assert torch.equal(changed(images), plain(images))
    assert torch.equal(changed.double()(images.double()), plain.double()(images.double()))
    plain.float()[0].stride = changed.float()[0].stride = (2, 2)
    assert torch.equal(changed(images), plain(images))
    assert not calls


def test_under_bfloat16_autocast_results_are_more_exact_than_torchs(calls):
    plain, images = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)), batch()[:, :1].repeat(1, 32, 1, 1)
    changed = copy.deepcopy(plain)
    winograd_(changed)
    exact = plain.double()(images.bfloat16().double())
    plain.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = [network(images) for network in (changed, plain)]
    assert [out.dtype for out in found] == [torch.bfloat16] * 2 and len(calls) == 1
    ours, theirs = ((out.double() - exact).square().mean() for out in found)
    assert ours < theirs
    found[0].float().sum().backward()
    assert changed[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_evaluation_without_norms_takes_it_with_addition_and_relu(calls, precision):
    model, images, labels = resnet(), batch(64), torch.arange(64) % 10
    model(images)  # the norms see a batch
    expected = evaluate(model, [(images, labels)], precision)
    winograd_(model)
    folded = Folded(model).load(model.state_dict())
    calls.clear()
    error, loss = evaluate(folded, [(images, labels)], precision)
    assert len(calls) == (16 if precision == "float32" else 10)
    assert loss == pytest.approx(expected[1], rel=1e-5 if precision == "float32" else 1e-2)
    assert error == pytest.approx(expected[0], abs=0 if precision == "float32" else 0.1)


def test_it_trains_together_with_fused_norms_and_compiled(calls):
    recipe = Recipe("resnet20", 8, 4, Schedule("constant", 0.1), winograd=True)
    images = batch()
    plain = resnet()(images)
    for options in ({}, {"fused_norm": True}):
        (forward,) = forward_passes([model := resnet()], dataclasses.replace(recipe, **options))
        calls.clear()
        torch.testing.assert_close(forward(images), plain, rtol=1e-4, atol=1e-4)
        assert len(calls) == 16, options
        assert sum(type(layer) is WinogradConv2d for layer in model.modules()) == 16
    model = resnet()
    winograd_(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    compiled(images).sum().backward()
    torch.testing.assert_close(compiled(images), plain, rtol=1e-4, atol=1e-4)


def test_a_fused_forward_pass_made_before_takes_it_too(calls):
    forward = fused_forward(model := resnet())
    winograd_(model)
    forward(batch())
    assert len(calls) == 16


def test_sparse_layers_stay_sparse_and_winograd_layers_become_sparse():
    model = resnet()
    masks = Mask({"blocks.0.conv1.weight": torch.rand(16, 16, 3, 3) < 0.1})
    winograd_(model)
    assert sparsify_(model, masks, up_to=0.5) == {}
    names = winograd_(model)
    assert "blocks.0.conv1" not in names and len(names) == 15
    densify_(model)
    assert sum(type(layer) is WinogradConv2d for layer in model.modules()) == 16
    sparsify_(model, masks, up_to=0.5)
    winograd_(model, enabled=False)
    densify_(model)
    assert not any(type(layer) is WinogradConv2d for layer in model.modules())


def test_torch_func_forward_mode_and_fx_compute_as_before_and_it_can_be_undone(calls):
    plain, images = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), batch()[:, :1].repeat(1, 16, 1, 1)
    changed = copy.deepcopy(plain)
    winograd_(changed)
    expected, state = plain(images), dict(changed.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(changed, parameters, (images,)).square().sum()

    gradient = torch.func.grad(loss)(state)["0.weight"]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), plain[0].weight)[0])
    assert torch.equal(torch.func.vmap(changed)(images[None])[0], torch.func.vmap(plain)(images[None])[0])
    for jvp in (by_jvp := lambda x: torch.func.jvp(changed, (x,), (x,))[1]), torch.compile(by_jvp, backend="eager"):
        torch.testing.assert_close(jvp(images), plain(images) - plain[0].bias[:, None, None], rtol=1e-4, atol=1e-5)
    by_bias = torch.func.grad(lambda bias: torch.func.functional_call(changed, {"0.bias": bias}, (images,)).sum())
    torch.testing.assert_close(by_bias(state["0.bias"].detach()), torch.full((16,), 8 * 32 * 32.0))
    assert torch.equal(torch.fx.symbolic_trace(changed)(images), expected) and not calls
    assert winograd_(changed, enabled=False) == [] and type(changed[0]) is nn.Conv2d


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [torch.contiguous_format, torch.channels_last])
def test_the_layout_is_that_of_torchs_convolution(calls, images, weights):
    plain = nn.Conv2d(32, 32, 3, padding=1).to(memory_format=weights)
    winograd_(changed := copy.deepcopy(plain))
    wide = torch.randn(8, 64, 12, 12).contiguous(memory_format=images)
    for part in (wide[:, :32], wide[:, 32:, 2:10, 2:10], wide[::2, ::2]):
        assert changed(part).stride() == plain(part).stride()
    assert len(calls) == 3


def test_gradients_in_batches_are_those_of_single_ones(calls):
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1))
    winograd_(network)
    images = torch.randn(16, 16, 8, 8)

    def few(scale):
        return network(images * scale[:, None, None])[:2, :, 0, 0].square().sum(0)

    scale = torch.rand(16)
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    for function, of in ((jacobian, few), (hessian, lambda s: few(s).sum())):
        torch.testing.assert_close(function(of, scale, vectorize=True), function(of, scale), rtol=1e-4, atol=1e-5)
    out = few(scale)
    together = torch.autograd.grad(out, network[0].weight, torch.eye(16), is_grads_batched=True, retain_graph=True)[0]
    for slope, one in zip(together, out, strict=True):
        (alone,) = torch.autograd.grad(one, network[0].weight, retain_graph=True)
        torch.testing.assert_close(slope, alone, rtol=1e-4, atol=1e-5)
    assert calls


def test_refusals_are_torchs():
    layer = nn.Conv2d(32, 32, 3, padding=1)
    winograd_(layer)
    with pytest.raises(RuntimeError, match="should be the same"):
        layer(torch.randn(8, 32, 8, 8).bfloat16())


def test_layers_can_be_copied_pickled_and_refused():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    winograd_(model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert type(again[0]) is WinogradConv2d
    assert torch.equal(again[0].weight, model[0].weight)
    with pytest.raises(SettingError, match="expected a network"):
        winograd_({"weight": torch.zeros(1)})
