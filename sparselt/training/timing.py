"""How long a training step and an evaluation take here, timed on random pixels."""

import hashlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparselt.data import Normalize, PadCrop, ResidentData, ResidentTrainLoader
from sparselt.data.manifest import Manifest
from sparselt.masks import Mask
from sparselt.models import build_model
from sparselt.optim import build_optimizer
from sparselt.training.checkpoint import load_tensors, save_tensors
from sparselt.training.cpu import cpu_threads
from sparselt.training.folding import Folded
from sparselt.training.forward import training_forwards
from sparselt.training.live import live_step
from sparselt.training.loop import autocast, forward_passes, training_loss
from sparselt.training.recipe import Recipe
from sparselt.training.seconds import Timing
from sparselt.weights import prunable_parameters

_TIMED_STEPS = 12
_MOST_SECONDS = 8.0
_CUDA_BATCH = 256
_CPU_PIXELS = 10 * 224 * 224
_TYPICAL_DENSITY = 0.3


def time_training(
    recipe: Recipe,
    classes: int,
    channels: int,
    size: int,
    device_name: str,
    augmentation: Mapping[str, Any] | None = None,
    least_seconds: float = 0.0,
) -> Timing:
    """Times a recipe's network on images of `size` pixels a side.

    For large batches it times a part and scales: on a CPU 2,048 images of 224 pixels take minutes. Trainings that
    compute live weights alone are timed at 30% of the weights: the average step of twelve levels at 20% costs as much.

    augmentation: the fields of a `PadCrop`, to time batches of images in memory as part of a step; None: without them.
    least_seconds: how long to repeat a step, and an evaluation, at least.
    """
    device = torch.device(device_name)
    affordable = _CPU_PIXELS // (size * size) if device.type == "cpu" else _CUDA_BATCH
    batch = max(2, min(recipe.batch_size, affordable))
    with cpu_threads(min(recipe.threads, len(os.sched_getaffinity(0)))):
        model = build_model(recipe.model, classes=classes, channels=channels, seed=0).to(device)
        mask = None
        if recipe.sparse_up_to >= _TYPICAL_DENSITY:
            generator = torch.Generator().manual_seed(0)
            drawn = {name: torch.rand(p.shape, generator=generator) for name, p in prunable_parameters(model)}
            mask = Mask({name: numbers < _TYPICAL_DENSITY for name, numbers in drawn.items()})
            mask.apply_(model)
        optimizer = build_optimizer(recipe, model.named_parameters(), mask)
        forwards = forward_passes([model], replace(recipe, compile=False))  # compiling would take longer than the steps
        live = live_step(model, mask, recipe) if mask is not None else None
        (spared,) = training_forwards([model.train()], forwards, recipe, optimizer, alone=live is None)
        images = torch.randn(batch, channels, size, size, device=device).to(memory_format=torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        batches: Iterator[tuple[Tensor, Tensor]] = itertools.repeat((images, labels))
        if augmentation is not None:
            some = replace(recipe, batch_size=batch)
            batches = _endless(made_up_loader(some, classes, channels, size, augmentation, device_name))

        def step() -> None:
            images, labels = next(batches)
            optimizer.refresh_copies()
            optimizer.zero_grad()
            if live is not None:
                live(images, labels)
            else:
                with autocast(device, recipe.precision):
                    loss = training_loss(spared(images), labels)
                loss.backward()
            optimizer.step()

        def forward() -> None:
            with torch.no_grad(), autocast(device, recipe.precision):
                folded(images)

        seconds = _median_seconds(step, device, least_seconds) * recipe.batch_size / batch
        folded = Folded(model).load(model.state_dict())
        image = _median_seconds(forward, device, least_seconds) / batch
    network = min(_network_seconds(recipe.model, classes, channels) for _ in range(2))  # the first one imports
    return Timing(seconds, image, network)


def _network_seconds(name: str, classes: int, channels: int) -> float:
    began = time.perf_counter()
    model = build_model(name, classes=classes, channels=channels, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_tensors(model.state_dict(), path)
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")  # compared before a stage reads a file
        model.load_state_dict(load_tensors(path))
    return time.perf_counter() - began


def made_up_loader(
    recipe: Recipe, classes: int, channels: int, size: int, augmentation: Mapping[str, Any], device_name: str
) -> ResidentTrainLoader:
    """Batches of made-up images of `size` pixels a side, two an epoch. augmentation: the fields of a `PadCrop`."""
    pixels = torch.randint(0, 256, (2 * recipe.batch_size, channels, size, size), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % classes
    normal = Normalize((0.5,) * channels, (0.25,) * channels)
    manifest = Manifest({}, "made up", True, "ndarray", classes, (), normal, {})
    data = ResidentData(manifest, {"train": {"images": pixels, "labels": labels}})
    transform = PadCrop(**augmentation, mean=normal.mean, std=normal.std)
    return ResidentTrainLoader(data, recipe.batch_size, 0, 0, transform, device_name)


def _endless(loader: ResidentTrainLoader) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in itertools.count():
        for batch in loader.epoch(epoch, start_step=0):
            yield batch.images, batch.labels


def _median_seconds(call: Callable[[], None], device: torch.device, least_seconds: float) -> float:
    times: list[float] = []
    start = time.perf_counter()
    while (len(times) < _TIMED_STEPS or time.perf_counter() < start + least_seconds) and (
        len(times) < 3 or time.perf_counter() < start + _MOST_SECONDS
    ):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[len(times) // 2 :])
