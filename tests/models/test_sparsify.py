"""sparsify_: the user's layers compute live weights alone, and answer as torch's layers with masked weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from sparselt import Mask, MaskedSGD, densify_, sparsify_
from sparselt.errors import MaskError, SettingError


def network(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding="valid", bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding="same"),
        nn.Conv2d(12, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    ]
    return nn.Sequential(*layers).to(dtype)


def mask_of(model: nn.Module, density: float) -> Mask:
    generator = torch.Generator().manual_seed(1)
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    return Mask({name: torch.rand(p.shape, generator=generator) < density for name, p in weights.items()})


def pair(density: float, dtype=torch.float64):
    """A sparse network whose masked weights hold anything, torch's with zeros there, and the mask."""
    model = network(dtype)
    mask, theirs = mask_of(model, density), copy.deepcopy(model)
    mask.apply_(theirs)
    assert sparsify_(model, mask, up_to=1.0) == {}
    return model, theirs, mask


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 64, 70])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_outputs_and_gradients_are_those_of_the_masked_network(density, count, order):
    ours, theirs, mask = pair(density)
    ours, theirs = ours.to(memory_format=order), theirs.to(memory_format=order)
    images = torch.randn(count, 3, 10, 10, dtype=torch.float64).to(memory_format=order).requires_grad_()
    labels = torch.randint(5, (count,))
    same = images.detach().clone().requires_grad_()
    out, expected = ours(images), theirs(same)
    torch.testing.assert_close(out, expected)
    F.cross_entropy(out, labels).backward()
    F.cross_entropy(expected, labels).backward()
    torch.testing.assert_close(images.grad, same.grad)
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad * mask[name] if name in mask else other.grad)
    for network in (ours.eval(), theirs.eval()):
        network.zero_grad()
    torch.testing.assert_close(ours(images[:1]), theirs(same[:1]))


def test_an_optimizer_made_before_trains_it_and_the_state_dict_is_unchanged():
    ours, theirs, mask = pair(0.2, torch.float32)
    names = set(theirs.state_dict())
    optimizers = [MaskedSGD(model.named_parameters(), lr=0.05, momentum=0.9, mask=mask) for model in (ours, theirs)]
    for _ in range(5):
        images, labels = torch.randn(32, 3, 10, 10), torch.randint(5, (32,))
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert set(ours.state_dict()) == names
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-4)
    fresh = network(torch.float32)
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(fresh.eval()(images), ours.eval()(images), rtol=1e-4, atol=1e-5)


def test_other_shapes_of_input():
    model = nn.Linear(6, 4)
    live = torch.rand(4, 6) < 0.5
    expected = nn.Linear(6, 4)
    expected.load_state_dict({"weight": model.weight * live, "bias": model.bias})
    assert sparsify_(model, {"weight": live}, up_to=1.0) == {}
    for shape in ((6,), (2, 6), (2, 3, 6), (0, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(model(x), expected(x))
    conv = nn.Conv2d(2, 3, 3, padding=1)
    kernel = torch.rand(conv.weight.shape) < 0.5
    image = torch.randn(2, 5, 5)
    masked = F.conv2d(image, conv.weight * kernel, conv.bias, padding=1)
    sparsify_(conv, {"weight": kernel}, up_to=1.0)
    torch.testing.assert_close(conv(image), masked)


def test_copies_hooks_and_wrapped_names_go_on_working():
    model = network(torch.float32)
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    mask = mask_of(model, 0.2)
    assert sparsify_(nn.Sequential(model)[0], {f"module.{n}": live for n, live in mask.items()}, up_to=1.0) == {}
    images = torch.randn(4, 3, 10, 10)
    expected = model.eval()(images)
    torch.testing.assert_close(copy.deepcopy(model)(images), expected)
    assert len(seen) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        torch.testing.assert_close(model(images).float(), expected, rtol=0.1, atol=0.1)


def test_torch_compile_takes_the_whole_network():
    model = network(torch.float32).eval()
    sparsify_(model, mask_of(model, 0.2), up_to=1.0)
    images = torch.randn(4, 3, 10, 10)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))
    compiled(images).sum().backward()
    assert model[0].weight.grad is not None


def test_a_second_mask_replaces_the_first_and_densify_undoes_both():
    model = network()
    first, second = mask_of(model, 0.3), mask_of(model, 0.1)
    images = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    model.eval()
    sparsify_(model, first, up_to=1.0)
    sparsify_(model, second, up_to=1.0)
    second.apply_(model)
    masked = copy.deepcopy(model)
    densify_(masked)
    second.apply_(masked)
    torch.testing.assert_close(model(images), masked(images))
    left = sparsify_(model, Mask.ones_like(model))
    assert set(left) == set(first) and "its density is 1, above up_to=0.15" in left["0.weight"]
    assert torch.equal(model(images), masked(images))
    assert type(model[0]) is nn.Conv2d and not hasattr(model[0], "pattern")


LEFT = {
    "groups=2": nn.Conv2d(4, 4, 3, groups=2),
    "dilation": nn.Conv2d(4, 4, 3, dilation=2),
    "stride is": nn.Conv2d(4, 4, 3, stride=(1, 2)),
    "padding is": nn.Conv2d(4, 4, 3, padding=(1, 2)),
    "circular": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "'same'": nn.Conv2d(4, 4, 2, padding="same"),
    "ConvTranspose2d has no sparse form": nn.ConvTranspose2d(4, 4, 3),
    "torch.float16": nn.Conv2d(4, 4, 3).half(),
    "on meta": nn.Conv2d(4, 4, 3, device="meta"),
}


@pytest.mark.parametrize("reason", LEFT)
def test_layers_that_stay_dense_are_named_with_the_reason(reason):
    model = nn.Sequential(LEFT[reason])
    left = sparsify_(model, {"0.weight": torch.zeros(model[0].weight.shape, dtype=torch.bool)})
    assert list(left) == ["0.weight"] and reason in left["0.weight"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda live: {"9.weight": live}, MaskError, "'9.weight' is not a weight of this model"),
        (lambda live: {"0.weight": live[:1]}, MaskError, r"has shape \(1, 3, 3, 3\), the weight \(8, 3, 3, 3\)"),
        (lambda live: {"0.weight": live.float()}, MaskError, "is torch.float32; expected torch.bool"),
        (lambda live: {"2.weight": live}, MaskError, "is not a weight of this model"),
        (lambda live: [live], SettingError, "expected tensors by parameter name"),
    ],
)
def test_masks_of_other_models_are_refused_and_nothing_changes(change, error, message):
    model = network()
    good = torch.zeros(12, 12, 3, 3, dtype=torch.bool)
    given = change(torch.zeros(8, 3, 3, 3, dtype=torch.bool))
    with pytest.raises(error, match=message):
        sparsify_(model, {"5.weight": good} | given if isinstance(given, dict) else given)
    assert type(model[5]) is nn.Conv2d


@pytest.mark.parametrize(
    "hide", [parametrizations.orthogonal, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)]
)
def test_weights_computed_from_others_are_refused_by_name(hide):
    model = nn.Sequential(nn.Linear(4, 4))
    hide(model[0])
    with pytest.raises(SettingError, match=r"0.weight is computed from other tensors .* remove that first"):
        sparsify_(model, {"0.weight": torch.zeros(4, 4, dtype=torch.bool)})


def test_masked_weights_are_set_to_zero_also_in_layers_that_stay_dense():
    model = network()
    mask = mask_of(model, 0.5)
    expected = copy.deepcopy(model)
    mask.apply_(expected)
    assert set(sparsify_(model, mask)) == set(mask)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_second_derivatives_are_those_of_the_masked_network():
    ours, theirs, mask = pair(0.3)
    images, labels = torch.randn(4, 3, 10, 10, dtype=torch.float64), torch.randint(5, (4,))
    norms = []
    for model in (ours.eval(), theirs.eval()):
        weights = list(model.parameters())
        loss = F.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        live = [
            g * mask[name] if name in mask else g
            for (name, _), g in zip(model.named_parameters(), gradients, strict=True)
        ]
        norms.append(torch.autograd.grad(sum(g.square().sum() for g in live), weights))
    for (name, _), ours_twice, theirs_twice in zip(ours.named_parameters(), *norms, strict=True):
        torch.testing.assert_close(ours_twice, theirs_twice * mask[name] if name in mask else theirs_twice)
    assert norms[0][0].any()


def test_forward_mode_is_refused():
    model, _, _ = pair(0.3)
    images = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
        torch.func.jvp(model, (images,), (torch.ones_like(images),))


def test_a_weight_that_two_layers_share_is_sparse_in_both():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    live = torch.rand(6, 6) < 0.4
    assert sparsify_(model, {"0.weight": live}, up_to=1.0) == {}
    assert torch.equal(model[0].pattern.weights, model[2].pattern.weights)
    model[2] = nn.LayerNorm(6, bias=False)
    model[2].weight = nn.Parameter(torch.ones(6))
    assert "LayerNorm" in sparsify_(model, {"2.weight": torch.ones(6, dtype=torch.bool)}, up_to=1.0)["2.weight"]


def test_layers_that_a_new_mask_does_not_name_become_dense():
    model = network()
    mask = mask_of(model, 0.3)
    sparsify_(model, mask, up_to=1.0)
    sparsify_(model, {"0.weight": mask["0.weight"]}, up_to=1.0)
    assert type(model[3]) is nn.Conv2d and type(model[0]) is not nn.Conv2d


def test_what_a_swap_does_not_reach_stays_dense_and_is_named():
    replaced = nn.Linear(4, 4)
    replaced.forward = nn.Linear(4, 4).forward
    attention = nn.MultiheadAttention(8, 2)
    model = nn.ModuleList([replaced, attention])
    names = {name: p.dim() for name, p in model.named_parameters() if name.endswith("weight")}
    mask = {name: torch.zeros(model.get_parameter(name).shape, dtype=torch.bool) for name in names}
    left = sparsify_(model, mask)
    assert "its forward is replaced" in left["0.weight"]
    assert left["1.in_proj_weight"] == "it is not the weight of a Conv2d or Linear layer"
    assert "NonDynamicallyQuantizableLinear has no sparse form" in left["1.out_proj.weight"]


@pytest.mark.parametrize("up_to", [float("nan"), -1, 2, "a", None, True])
def test_up_to_is_a_density(up_to):
    with pytest.raises(SettingError, match="expected a density from 0 to 1"):
        sparsify_(nn.Linear(4, 4), {"weight": torch.ones(4, 4, dtype=torch.bool)}, up_to=up_to)


LIVE = torch.zeros(3, 2, 3, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("model", "live", "message"),
    [
        (lambda: nn.LazyConv2d(3, 3), LIVE, "weight has no shape yet; give the model a batch first"),
        (lambda: nn.Conv2d(2, 3, 3), LIVE.to("meta"), "is torch.strided on meta; expected torch.strided with values"),
        (lambda: nn.Conv2d(2, 3, 3), LIVE.to_sparse(), "is torch.sparse_coo on cpu; expected torch.strided"),
        (lambda: "network", LIVE, "model is a str; expected a torch.nn.Module"),
    ],
)
def test_models_and_masks_of_other_kinds_are_refused(model, live, message):
    with pytest.raises((SettingError, MaskError), match=message):
        sparsify_(model(), {"weight": live})


def test_a_layer_that_changed_since_and_inputs_that_do_not_fit_are_refused():
    conv, linear = nn.Conv2d(2, 3, 3), nn.Linear(6, 4)
    sparsify_(conv, {"weight": LIVE}, up_to=1.0)
    sparsify_(linear, {"weight": torch.ones(4, 6, dtype=torch.bool)}, up_to=1.0)
    for layer, shape in ((conv, (1, 3, 9, 9)), (conv, (9, 9)), (linear, (0, 4)), (linear, (2, 5))):
        with pytest.raises(SettingError, match=r"got an input of shape .*; expected \["):
            layer(torch.zeros(shape))
    conv.stride = (2, 2)
    with pytest.raises(SettingError, match="has changed since sparsify_; call sparsify_ with the model again"):
        conv(torch.zeros(1, 2, 9, 9))
    linear.bfloat16()
    with pytest.raises(SettingError, match=r"has torch\.bfloat16 weights; a sparse layer computes with torch"):
        linear(torch.zeros(2, 6))


def test_what_is_no_network_is_not_made_dense():
    with pytest.raises(SettingError, match="model is a int; expected a network"):
        densify_(3)
