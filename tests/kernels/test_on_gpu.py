"""The kernels on a CUDA device against the float64 references. `make gpu` runs these."""

import pytest
import torch
from kernel_cases import Case, Options, assert_answers
from sparselt.kernels import augment, masked_sgd_
from sparselt.kernels.augment import reference
from sparselt.kernels.masked_sgd import pack_mask

from sparselt import MaskedSGD

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(64, 32, 3, 3), (5,), (123, 41), (), (1025,), (100_003,), (0,)]
CHOICES = [
    Options(weight_decay=0.1, dampening=0.3),
    Options(nesterov=True, shrink=0.95, maximize=True),
    Options(momentum=0.0, weight_decay=0.1),
]


def on_device(case: Case) -> Case:
    case.parameters = [torch.empty_like(p, device="cuda").copy_(p) for p in case.parameters]
    case.gradients = [[torch.empty_like(g, device="cuda").copy_(g) for g in step] for step in case.gradients]
    return case


@pytest.mark.parametrize("mask", ["empty", "full", "one weight", "random", "few"])
@pytest.mark.parametrize("chosen", CHOICES, ids=["dampening", "nesterov", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_sgd_matches_the_reference(dtype, chosen, mask):
    case = on_device(Case(SHAPES, "channels last", mask, dtype, special=dtype == torch.float32))
    momentum = torch.full((case.length,), float("nan"), device="cuda")
    bits, rows = pack_mask(case.live().cuda()), torch.tensor([chosen.row()], device="cuda")
    for i, gradients in enumerate(case.gradients):
        masked_sgd_(case.parameters, gradients, momentum, bits, rows, first_step=i == 0)
    assert_answers(case, chosen, momentum, "cuda")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 10)
    )
    return layers.cuda().to(memory_format=torch.channels_last)


def half_mask(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(p.shape, generator=generator) < 0.1 for n, p in model.named_parameters() if p.dim() > 1}


def test_full_mask_equals_torchs_sgd():
    ours, theirs = network(), network()
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    first = MaskedSGD(ours.named_parameters(), **options)
    second = torch.optim.SGD(theirs.parameters(), **options)
    for step in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(torch.full((4, 3, 8, 8), 0.1 * step, device="cuda")).square().sum().backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_loaded_weights_are_masked_in_the_next_step():
    model = network()
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = half_mask(model)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    for loaded in (False, True):
        if loaded:
            model.load_state_dict(dense)
        model(torch.ones(4, 3, 8, 8, device="cuda")).sum().backward()
        optimizer.step()
        for name, p in model.named_parameters():
            if name in mask:
                assert not p.detach().cpu()[~mask[name]].any()


def test_a_captured_step_follows_gradients_and_schedule():
    results = []
    for captured in (False, True):
        model = network()
        mask = half_mask(model)
        optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2, mask=mask)
        gradients = {p: torch.zeros_like(p) for p in model.parameters()}
        for p, gradient in gradients.items():
            p.grad = gradient
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(6):
            for p, gradient in gradients.items():
                gradient.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            if captured:
                optimizer.refresh()
                graph.replay()
            else:
                optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    for p, q in zip(*results, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("nhwc", [True, False])
def test_augment_draws_as_the_reference(nhwc, channels_last):
    images = torch.randint(0, 256, (257, 3, 32, 32), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last) if nhwc else images
    indices = torch.randint(0, 2**32, (257,))
    options = {
        "seed": 2**63 + 5,
        "epoch": 7,
        "padding": 4,
        "flip": True,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.2],
    }
    device_images = torch.empty_like(images, device="cuda").copy_(images)
    got = augment(device_images, indices.cuda(), channels_last=channels_last, **options)
    torch.testing.assert_close(got.cpu().double(), reference.augment(images, indices, **options), rtol=1e-5, atol=1e-5)
