"""A whole training step on live weights alone (`SparseStep`) against the dense step, by density; one thread, CPU time.

A step: augmentation from bytes in memory, forward, backward, `MaskedSGD`. The mask is random and covers all weights of
convolutions and linear layers. The dense step computes the same mask's network with torch, eager, and is measured in
both memory orders; it does not get faster with density. bfloat16 is autocast there, and the tiles' dtype here.
The floor counts three sums over the live weights, and 13 passes over the outputs of all layers.
"""

from functools import lru_cache

import pytest
import torch
from torch.nn import functional as F

from sparselt import MaskedSGD
from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case
from sparselt.benchmarks.sparse import DENSITIES, floor_note, has_fast_bfloat16, interleaved, random_mask
from sparselt.kernels import augment
from sparselt.models import build_model
from sparselt.models.sparse_step import SparseStep

HERE = conditions()
pytestmark = pytest.mark.skipif(HERE.on_gpu, reason="SparseStep runs on a CPU only")
NETWORKS = {  # name, channels, side, batch, padding of the crop, flips
    "digits ResNet-8, batch 64": ("resnet8", 1, 8, 64, 1, False),
    "ResNet-20, batch 128": ("resnet20", 3, 32, 128, 4, True),
    "LeNet-300-100, batch 60": ("lenet_300_100", 1, 28, 60, 0, False),
}


SOME = (1.0, 0.1) if HERE.quick else DENSITIES


class Problem:
    """Bytes of a batch, and the steps of networks that train on them."""

    def __init__(self, network: str):
        self.name, self.channels, side, batch, self.padding, self.flip = NETWORKS[network]
        self.batch = max(2, HERE.scaled(batch))
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, side, side, self.channels)
        self.pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)
        self.indices = torch.arange(self.batch)
        self.labels = torch.randint(0, 10, (self.batch,), generator=generator)
        self.draws = iter(range(2**30))

    def images(self, channels_last: bool) -> torch.Tensor:
        return augment(
            self.pixels,
            self.indices,
            seed=0,
            epoch=next(self.draws),
            padding=self.padding,
            flip=self.flip,
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
            channels_last=channels_last,
        )

    def model(self, density: float):
        model = build_model(self.name, classes=10, channels=self.channels, seed=0).train()
        return model, random_mask(model, density)

    def dense(self, channels_last: bool, bfloat16: bool = False):
        model, live = self.model(0.2)
        model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        optimizer = MaskedSGD(model.named_parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, mask=live)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                outputs = model(self.images(channels_last))
            F.cross_entropy(outputs.float(), self.labels).backward()
            optimizer.step()

        return step

    def sparse(self, density: float, dtype: torch.dtype):
        model, live = self.model(density)
        options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "mask": live, "live_momentum": True}
        optimizer = MaskedSGD(model.named_parameters(), **options)
        compute = SparseStep(model, live, tuple(self.pixels.shape), dtype)

        def step() -> None:
            compute(self.images(True), self.labels)
            optimizer.step()

        return step

    def work(self, density: float) -> tuple[float, float]:
        """The fewest operations, and float32 bytes, that a step can take."""
        model, live = self.model(density)
        positions = _positions(model, self.pixels.shape)
        operations = sum(6 * float(mask.sum()) * positions[name] * self.batch for name, mask in live.items())
        outputs = sum(len(mask) * positions[name] * self.batch for name, mask in live.items())
        return operations, 13 * 4 * outputs


def _positions(model: torch.nn.Module, shape) -> dict[str, int]:
    """For each weight, at how many positions of an image it is used."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(
                lambda _, __, out, name=f"{name}.weight": found.update({name: out[0].numel() // out.shape[1]})
            )
    model(torch.zeros(2, *shape[1:]))
    return found


@lru_cache
def measured(network: str) -> dict[str, list[float]]:
    """Seconds of every kind of step of one network, interleaved."""
    problem = Problem(network)
    calls = {"dense, channels last": problem.dense(True), "dense, contiguous": problem.dense(False)}
    if has_fast_bfloat16():
        calls["dense, bfloat16"] = problem.dense(True, bfloat16=True)
    for density in SOME:
        for dtype in (torch.float32, torch.bfloat16):
            calls[f"{density} {dtype}"] = problem.sparse(density, dtype)
    return interleaved(calls, 3 if HERE.quick else 9)


@pytest.mark.parametrize("density", SOME)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_step(network, density, compare):
    problem, seconds = Problem(network), measured(network)
    times = {"sparse step": seconds[f"{density} torch.float32"]}
    times |= {name: taken for name, taken in seconds.items() if name.startswith("dense")}
    times["sparse step, bfloat16"] = seconds[f"{density} torch.bfloat16"]
    case = Case("sparse_step", network, size=problem.batch, density=density, unit="images", sweep="density")
    compare.times(case, times, notes={"sparse step": floor_note(*problem.work(density))})
