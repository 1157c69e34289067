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
    dense = model.eval()(images)
    sparsify_(model, first, up_to=1.0)
    sparsify_(model, second, up_to=1.0)
    masked = copy.deepcopy(model)
    densify_(masked)
    second.apply_(masked)
    torch.testing.assert_close(model(images), masked(images))
    left = sparsify_(model, Mask.ones_like(model))
    assert set(left) == set(first) and "its density is 1, above up_to=0.15" in left["0.weight"]
    assert torch.equal(model(images), dense) and type(model[0]) is nn.Conv2d and not hasattr(model[0], "pattern")


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
