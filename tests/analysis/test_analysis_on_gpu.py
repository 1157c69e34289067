"""Paths, planes, folded norms, statistics and Hessian products on a GPU, against the CPU. `make gpu` runs these.

With SPARSELT_REHEARSED_ON=cpu they run on the CPU, so that a slip is found before a GPU is at hand.
"""

import os

import pytest
import torch

from sparselt import Mask, magnitude_prune
from sparselt.analysis import evaluate_path, evaluate_plane, hessian_trace, path_positions, reestimate_statistics_
from sparselt.data import Batch
from sparselt.models import build_model
from sparselt.optim import build_optimizer
from sparselt.reproduce import load_setting
from sparselt.training import loop
from sparselt.training.captured import pinned_algorithms
from sparselt.training.folding import Folded

DEVICE = os.environ.get("SPARSELT_REHEARSED_ON", "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def batches(device, side=8, count=48):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (count,), generator=generator)
    places = torch.arange(count)
    return [
        Batch(*(t[start : start + 16].to(device) for t in (images, labels, places))) for start in range(0, count, 16)
    ]


def network(device, seed=0):
    model = build_model("resnet8", classes=10, channels=3, seed=seed).to(device)
    reestimate_statistics_(model, batches(device))
    return model


@pytest.fixture(autouse=True)
def exact():
    with pinned_algorithms():
        yield


def test_paths_and_planes_have_the_errors_that_the_cpu_finds():
    found = []
    for device in ("cpu", DEVICE):
        ends = [network(device, seed).state_dict() for seed in range(3)]
        path = evaluate_path(network(device), *ends[:2], batches(device), path_positions(5))
        plane = evaluate_plane(network(device), *ends, batches(device), torch.tensor([[0.2, 0.3], [1.2, -0.1]]))
        found.append((path, plane))
    (path, plane), (its_path, its_plane) = found
    assert its_path.errors == pytest.approx(path.errors, abs=0.05)  # of 48 images two may fall on the other side
    assert its_path.losses == pytest.approx(path.losses, rel=1e-3)
    assert list(its_plane.losses) == pytest.approx(list(plane.losses), rel=1e-3)


def test_folded_norms_and_statistics_are_those_of_the_cpu():
    outputs = []
    for device in ("cpu", DEVICE):
        model = network(device).eval()
        outputs.append(
            (model(batches(device)[0].images), Folded(model).load(model.state_dict())(batches(device)[0].images))
        )
    (plain, folded), (its_plain, its_folded) = outputs
    for tensor in (folded, its_plain.cpu(), its_folded.cpu()):
        torch.testing.assert_close(tensor, plain, rtol=1e-3, atol=1e-3)


def test_hessian_products_are_those_of_the_cpu():
    traces = []
    for device in ("cpu", DEVICE):
        model = network(device)
        traces.append(hessian_trace(model, batches(device), Mask.ones_like(model), samples=3, seed=0).mean)
    assert traces[1] == pytest.approx(traces[0], rel=0.02)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_resnet50_trains_in_the_eager_loop(micro_batches):
    recipe = (
        load_setting("imagenet_resnet50", "smoke").changed(micro_batches=micro_batches, precision="bfloat16").recipe
    )
    model = build_model("resnet50", classes=10, channels=3, seed=0).to(DEVICE)
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.8)
    mask.apply_(model)
    optimizer = build_optimizer(recipe, model.named_parameters(), mask)

    class Loader:
        steps_per_epoch = 2

        def epoch(self, epoch, start_step=0):
            return (batch for batch in batches(DEVICE, side=64)[start_step:2])

    trained = loop.train(model, optimizer, Loader(), recipe, start_step=recipe.steps - 2)
    assert trained.steps == 2 and trained.train_loss < 10
    for name, parameter in model.named_parameters():
        if name in mask:
            assert not parameter[~mask[name].to(parameter.device)].any()
