"""The kernels on a CUDA device against the float64 references. `make gpu` runs these."""

import pytest
import torch
from cuda_graphs import stepping
from kernel_cases import Case, Options, assert_answers
from norm_cases import TOLERANCE
from norm_cases import Case as NormCase

from sparselt import Mask, MaskedSGD, magnitude_prune
from sparselt.kernels import augment, interpolate, magnitude_mask, masked_sgd_
from sparselt.kernels.augment import reference
from sparselt.kernels.masked_sgd import pack_mask
from sparselt.kernels.norm_act import norm_act

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
        make_step = stepping(optimizer, captured)
        for step in range(6):
            for p, gradient in gradients.items():
                gradient.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            if captured:
                optimizer.refresh()
            make_step()
        results.append([p.detach().clone() for p in model.parameters()])
    for p, q in zip(*results, strict=True):
        assert torch.equal(p, q)


AUGMENT = {"padding": 4, "flip": True, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("nhwc", [True, False])
def test_augment_draws_as_the_reference_and_as_the_cpu(nhwc, channels_last, dtype):
    images = torch.randint(0, 256, (257, 3, 32, 32), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last) if nhwc else images
    indices = torch.randint(0, 2**32, (257,))
    options = {"seed": 2**63 + 5, "epoch": 7, **AUGMENT}
    device_images = torch.empty_like(images, device="cuda").copy_(images)
    got = augment(device_images, indices.cuda(), channels_last=channels_last, dtype=dtype, **options).cpu()
    tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 2**-8, "atol": 1e-5}
    torch.testing.assert_close(got.double(), reference.augment(images, indices, **options), **tolerance)
    on_cpu = augment(images, indices, channels_last=channels_last, dtype=dtype, **options)
    torch.testing.assert_close(got, on_cpu, **tolerance)


def test_a_captured_augmentation_follows_seed_epoch_and_images():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    there, indices = images.cuda(), torch.arange(64, device="cuda")
    seed, epoch = torch.tensor(3, device="cuda"), torch.tensor(0, device="cuda")
    graph = torch.cuda.CUDAGraph()
    augment(there, indices, seed=seed, epoch=epoch, **AUGMENT)
    with torch.cuda.graph(graph):
        out = augment(there, indices, seed=seed, epoch=epoch, **AUGMENT)
    for number in range(4):
        seed.fill_(number - 2)
        epoch.fill_(100 * number)
        indices.add_(1)
        there.copy_(images.roll(number, 0))
        graph.replay()
        at = {"seed": (number - 2) % 2**64, "epoch": 100 * number}
        assert torch.equal(out, augment(there, indices, **at, **AUGMENT))


def test_a_captured_augmentation_that_was_never_run_before_is_normalized():
    images, indices = torch.randint(0, 256, (8, 1, 9, 9), dtype=torch.uint8, device="cuda"), torch.arange(8).cuda()
    options = {"seed": 1, "epoch": 2, "padding": 1, "flip": True, "mean": [0.123], "std": [0.456]}
    graph = torch.cuda.CUDAGraph()
    augment(images, indices, **{**options, "mean": [0.5]})  # compiles the kernel, which a capture cannot
    with torch.cuda.graph(graph):
        out = augment(images, indices, **options)
    graph.replay()
    assert torch.equal(out, augment(images, indices, **options))


def test_the_public_functions_compile_into_one_graph_with_torchs_own_compiler():
    def everything(ends, position, masks, count, images, indices, epoch):
        rows = interpolate(ends, position, masks=masks)
        kept, found = magnitude_mask(ends[0], masks, count)
        batch = augment(images, indices, seed=1, epoch=epoch, dtype=torch.bfloat16, **AUGMENT)
        return *(2 * row for row in rows), *kept, found.value + 1, batch + 1

    generator = torch.Generator("cuda").manual_seed(0)
    ends = [[torch.randn(s, device="cuda", generator=generator) for s in ((300,), (40, 50))] for _ in range(2)]
    masks = [None, torch.rand(40, 50, device="cuda", generator=generator) < 0.5]
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, device="cuda")
    count, indices = torch.tensor(333, device="cuda"), torch.arange(8, device="cuda")
    traced = torch.compile(everything, fullgraph=True)
    for epoch in (1, 2, torch.tensor(5, device="cuda")):
        given = (ends, torch.linspace(0, 1, 5, device="cuda"), masks, count, images, indices, epoch)
        for got, expected in zip(traced(*given), everything(*given), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_pruning_on_the_device_gives_the_masks_of_the_cpu(scope):
    model = network()
    mask = Mask({name: layer.cpu() for name, layer in Mask.ones_like(model).items()})
    copies = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    pruned = magnitude_prune(model, mask, 0.3, scope)
    assert pruned == magnitude_prune(copies, mask, 0.3, scope)
    assert all(layer.device.type == "cpu" for layer in pruned.values())


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (2, 96, 5, 5), (128, 16, 32, 32), (16, 2048, 7, 7)], ids=str)
def test_norm_act_agrees_with_the_reference(shape, relu, residual, dtype):
    case = NormCase(shape, dtype, residual=residual, relu=relu)

    def on_device(operator):
        def call(*arguments):
            there = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
            found = [tensor.cpu() for tensor in operator(*there)]
            for argument, moved in zip(arguments, there, strict=True):
                if isinstance(argument, torch.Tensor):
                    argument.copy_(moved)  # the running statistics
            return found

        return call

    operators = torch.ops.sparselt.norm_act, torch.ops.sparselt.norm_act_backward
    case.check(*map(on_device, operators), 4 * TOLERANCE[dtype])


def test_norm_act_is_the_same_in_every_call_and_in_a_graph():
    case = NormCase((128, 16, 32, 32), torch.bfloat16, residual=True)
    x, weight, bias, residual = (t.cuda() for t in (case.input, case.weight, case.bias, case.residual))
    statistics = [torch.zeros(16, device="cuda"), torch.ones(16, device="cuda")]
    norm_act(x, weight, bias, *statistics, residual=residual)  # compiles the kernels, which a capture cannot
    expected = norm_act(x, weight, bias, residual=residual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = norm_act(x, weight, bias, residual=residual)
    for _ in range(3):
        graph.replay()
        assert torch.equal(out, expected)
