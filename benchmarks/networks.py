"""The measured networks: the shapes of their parameters, and the time of one training step on this machine."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from statistics import median
from time import perf_counter

import torch

from sparselt.benchmarks.conditions import conditions

Shapes = list[tuple[int, ...]]

NAMES = {"LeNet-300-100": "lenet_300_100", "ResNet-8": "resnet8", "ResNet-20": "resnet20", "ResNet-50": "resnet50"}
_INPUTS = {  # channels, side, classes
    "lenet_300_100": (1, 28, 10),
    "resnet8": (1, 8, 10),
    "resnet20": (3, 32, 10),
    "resnet50": (3, 224, 1000),
}


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step. of: which network, batch and precision."""

    seconds: float
    of: str


def network(name: str) -> torch.nn.Module:
    """A fresh network of `NAMES`, on the CPU."""
    from sparselt.models import MODELS

    channels, _, classes = _INPUTS[NAMES[name]]
    return MODELS[NAMES[name]](classes, channels)


@lru_cache
def shapes_of(name: str) -> tuple[tuple[int, ...], ...]:
    """Shapes of all parameters of a network of `NAMES`. A run with scale below 1 has fewer outputs a layer."""
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in network(name).parameters()]
    scale = conditions().scale
    if scale >= 1 or name != "ResNet-50":
        return tuple(shapes)
    return tuple((max(1, round(first * scale)), *rest) for first, *rest in shapes)


def weights(shapes) -> int:
    """The number of elements of tensors of these shapes."""
    return sum(map(prod, shapes))


@lru_cache
def training_step(name: str) -> StepTime | None:
    """One step of a network of `NAMES` with MaskedSGD, measured once a process: forward, backward and update.

    128 images for the small networks; for ResNet-50, of 224 pixels, 8 on a CPU and 256 on a GPU. Eager, channels last,
    float32 on a CPU and bfloat16 autocast on a GPU. None if the device has too little memory, or if it would take too
    long (a quick run on a CPU, or one that is scaled down).
    """
    here, kind = conditions(), NAMES[name]
    large = kind == "resnet50"
    if large and (here.scale < 1 or (here.quick and not here.on_gpu)):
        return None
    from sparselt import MaskedSGD

    channels, side, _ = _INPUTS[kind]
    batch = (256 if here.on_gpu else 8) if large else here.scaled(128)
    model = network(name).to(here.device).to(memory_format=torch.channels_last).train()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(batch, channels, side, side, device=here.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=here.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(here.device, torch.bfloat16, enabled=here.on_gpu):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if here.on_gpu:
            torch.cuda.synchronize()

    times = []
    try:
        for _ in range(4 if large else 8):
            start = perf_counter()
            step()
            times.append(perf_counter() - start)
    except torch.OutOfMemoryError:
        return None
    precision = "bfloat16 autocast" if here.on_gpu else "float32"
    return StepTime(median(times[1:] if large else times[3:]), f"{name}, batch {batch}, {precision}, eager")
