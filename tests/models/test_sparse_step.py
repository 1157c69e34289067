"""SparseStep against torch's own forward and backward pass of the same masked network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt import MaskedSGD
from sparselt.errors import SettingError
from sparselt.kernels.sparse_conv2d import cpu, norm
from sparselt.models import build_model
from sparselt.models.residual import CifarResNet
from sparselt.models.sparse_step import SparseStep

NETWORKS = {
    "digits": (lambda: CifarResNet(10, 1, blocks=1, widths=(8, 16, 32)), (64, 1, 8, 8)),
    "two blocks, odd sizes, part of a block of images": (lambda: CifarResNet(10, 3, 2, (4, 6, 8)), (70, 3, 9, 7)),
    "a perceptron": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 5)),
        (60, 3, 4, 4),
    ),
}


def drawn(network: str, density: float, dtype: torch.dtype, seed: int = 0):
    """A masked network with norms that are not at their start, the mask, images and labels."""
    torch.manual_seed(seed)
    make, shape = NETWORKS[network]
    model = make().to(dtype).train()
    live = {name: torch.rand(p.shape) < density for name, p in model.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter * live[name] if name in live else parameter + torch.randn_like(parameter) / 5)
    return model, live, torch.randn(shape, dtype=dtype), torch.randint(0, 5, shape[:1])


def differences(model: nn.Module, other: nn.Module, live: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each gradient, over the norm of the other model's; masked places are left out of that."""
    found = {}
    for (name, parameter), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        expected = theirs.grad.double() * live.get(name, 1)
        found[name] = float((parameter.grad.double() - expected).norm() / (expected.norm() + 1e-12))
    return found


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("density", [1.0, 0.3, 0.05, 0.0])
def test_float64_gradients_loss_and_statistics_are_torchs(network, density, order):
    model, live, images, labels = drawn(network, density, torch.float64)
    model, images = model.to(memory_format=order), images.to(memory_format=order)
    expected = copy.deepcopy(model)
    loss = F.cross_entropy(expected(images), labels, label_smoothing=0.1)
    loss.backward()
    step = SparseStep(model, live, images.shape, torch.float64)
    got = step(images, labels, 0.1)
    torch.testing.assert_close(got, loss.detach(), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        assert name not in live or not parameter.grad[~live[name]].any()
    assert max(differences(model, expected, live).values()) < 1e-10
    for ours, theirs in zip(model.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_float32_is_as_near_to_float64_as_torch(network):
    model, live, images, labels = drawn(network, 0.3, torch.float32)
    exact, theirs = copy.deepcopy(model).double(), copy.deepcopy(model)
    F.cross_entropy(exact(images.double()), labels).backward()
    F.cross_entropy(theirs(images), labels).backward()
    for name, parameter in theirs.named_parameters():
        parameter.grad *= live.get(name, 1)
    SparseStep(model, live, images.shape)(images, labels)
    ours = max(differences(model, exact, live).values())
    assert ours < 4 * max(differences(theirs, exact, live).values()) + 1e-6


def test_bfloat16_is_as_near_to_float32_as_autocast():
    model, live, images, labels = drawn("digits", 0.3, torch.float32)
    exact, theirs = copy.deepcopy(model), copy.deepcopy(model)
    F.cross_entropy(exact(images), labels).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(theirs(images).float(), labels)
    loss.backward()
    for name, parameter in theirs.named_parameters():
        parameter.grad *= live.get(name, 1)
    SparseStep(model, live, images.shape, torch.bfloat16)(images, labels)
    assert max(differences(model, exact, live).values()) < 2 * max(differences(theirs, exact, live).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_trainings_give_equal_bits_on_any_number_of_threads(monkeypatch, dtype):
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 0)
    monkeypatch.setattr(norm, "PARALLEL_FROM", 0)
    threads, ends = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 3):
            model, live, images, labels = drawn(list(NETWORKS)[1], 0.2, torch.float32)
            step = SparseStep(model, live, images.shape, dtype)
            optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=live)
            for shift in range(4):
                torch.set_num_threads(count)
                optimizer.zero_grad()
                step(images.roll(shift, 0), labels)
                optimizer.step()
            ends.append([tensor.clone() for tensor in model.state_dict().values()])
    finally:
        torch.set_num_threads(threads)
    for others in ends[1:]:
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(ends[0], others, strict=True))


def test_trains_as_the_dense_network_under_the_same_mask():
    model, live, images, labels = drawn("digits", 0.3, torch.float64)
    dense = copy.deepcopy(model)
    step = SparseStep(model, live, images.shape, torch.float64)
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "mask": live}
    ours, theirs = (MaskedSGD(m.named_parameters(), **options) for m in (model, dense))
    for _ in range(5):
        for optimizer in (ours, theirs):
            optimizer.zero_grad()
        step(images, labels)
        F.cross_entropy(dense(images), labels).backward()
        for optimizer in (ours, theirs):
            optimizer.step()
    for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_network_that_diverges_says_so_in_its_loss():
    model, live, images, labels = drawn("digits", 0.3, torch.float32)
    with torch.no_grad():
        model.blocks[1].conv1.weight[live["blocks.1.conv1.weight"]] = float("nan")
    loss = SparseStep(model, live, images.shape)(images, labels)
    assert loss.isnan()


def test_other_networks_images_and_memory_are_refused():
    with pytest.raises(SettingError, match="VGG19 has no sparse step"):
        SparseStep(build_model("vgg19", classes=10, channels=3, seed=0), {}, (2, 3, 16, 16))
    model, live, images, labels = drawn("digits", 0.3, torch.float32)
    step = SparseStep(model, live, images.shape)
    with pytest.raises(ValueError, match="this step was made for"):
        step(images[:3], labels[:3])
    model.fc.weight.data = model.fc.weight.data.clone()
    with pytest.raises(RuntimeError, match="other memory"):
        step(images, labels)


@pytest.mark.parametrize("wrong", [-100, 10, 10**8, -(10**9)])
def test_labels_that_are_no_class_are_refused(wrong):
    model, live, images, labels = drawn("digits", 0.5, torch.float32)
    step = SparseStep(model, live, images.shape)
    step(images, labels)
    labels[3] = wrong
    with pytest.raises(ValueError, match=f"{wrong}.*: expected classes from 0 to 9"):
        step(images, labels)


@pytest.mark.parametrize("network", ["digits", "a perceptron"])
def test_masks_and_images_that_are_not_the_networks_are_refused(network):
    model, live, images, _ = drawn(network, 0.5, torch.float32)
    name, mask = list(live.items())[-1]
    for changed, message in (
        ({name: mask.t()}, rf"the mask of {name} is torch.bool .*; expected torch.bool \({len(mask)}, "),
        ({name: mask.float()}, "is torch.float32"),
        ({"no.weight": mask}, "'no.weight', which is not a parameter of the network"),
    ):
        with pytest.raises(SettingError, match=message):
            SparseStep(model, changed, images.shape)
    for shape in ((64, 7, 8, 8), (64, 7, 8), (0, *images.shape[1:])):
        with pytest.raises(SettingError, match="images is"):
            SparseStep(model, live, shape)
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(SettingError, match=r"for a network of torch\.float32; expected one of"):
            SparseStep(model, live, images.shape, dtype)


def test_a_parameter_that_was_replaced_is_noticed():
    model, live, images, labels = drawn("digits", 0.5, torch.float32)
    step = SparseStep(model, live, images.shape)
    model.fc.weight = nn.Parameter(model.fc.weight.detach().clone())
    with pytest.raises(RuntimeError, match="a parameter has other memory"):
        step(images, labels)
