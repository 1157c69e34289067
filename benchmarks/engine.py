"""The captured step of K networks side by side: images a second, nodes of the graph, seconds to capture, memory.

    python -m sparselt.benchmarks.engine --device cuda --out FILE

ResNet-20 at batch 128 by the protocol of `cifar10_resnet20`, bfloat16 and float32, on images made up in memory. For
each number of networks it also trains two of them for a few steps, captured and eagerly, and compares weights and
losses to the bit. On a CPU the step is not captured: that rehearses this file, and measures nothing of use.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from sparselt.benchmarks.machine import machine
from sparselt.data import PadCrop, ResidentData, ResidentTrainLoader, SyntheticImages, open_dataset, write_dataset
from sparselt.models import build_model
from sparselt.reproduce import load_setting
from sparselt.training.cohort import Cohort, Member
from sparselt.training.recipe import Recipe

SIZES = (1, 2, 4, 8, 12, 16)
_COMPARED_STEPS = 12


Precision = Literal["float32", "bfloat16"]


def measure(
    device: str, sizes: tuple[int, ...], precision: Precision, batch_size: int = 128
) -> Iterator[dict[str, Any]]:
    """One row for each number of networks. A number that fails gives its error instead."""
    return _rows(_measured, device, sizes, precision, batch_size)


def count_nodes(device: str, sizes: tuple[int, ...], precision: Precision, batch_size: int) -> Iterator[dict[str, Any]]:
    """The nodes of the graphs of the first two sizes. Call it last: the profiler may slow down graphs made after it."""
    return _rows(_nodes, device, sizes[:2] if device != "cpu" else (), precision, batch_size)


def _rows(
    measured: Callable[[Recipe, ResidentData, str, int], dict[str, Any]],
    device: str,
    sizes: tuple[int, ...],
    precision: Precision,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    recipe = load_setting("cifar10_resnet20", "paper").recipe
    schedule = dataclasses.replace(recipe.schedule, milestones=(6, 9))
    recipe = dataclasses.replace(
        recipe, precision=precision, batch_size=batch_size, steps=_COMPARED_STEPS, schedule=schedule
    )
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(SyntheticImages(4 * batch_size, 16, classes=10, height=32, width=32, storage="raw"), folder)
        pixels = ResidentData.read(open_dataset(folder))
    for size in sizes:
        row: dict[str, Any] = {"networks": size, "precision": precision, "batch_size": batch_size}
        try:
            yield row | measured(recipe, pixels, device, size)
        except RuntimeError as error:  # out of memory, or another error of CUDA
            yield row | {"error": str(error).splitlines()[0]}


def _measured(recipe: Recipe, pixels: ResidentData, device: str, size: int) -> dict[str, Any]:
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    cohort = _cohort(recipe, pixels, device, size, captured=on_gpu)
    if on_gpu:
        torch.cuda.synchronize()
    row: dict[str, Any] = {"seconds_to_build": time.perf_counter() - began}
    row["captured"] = cohort._graph is not None
    row["images_per_second"] = cohort.images_per_second()
    row["bytes"] = torch.cuda.max_memory_allocated() if on_gpu else None
    captured, eager = (
        _trained(recipe, pixels, device, min(2, size), found)
        for found in (cohort, _cohort(recipe, pixels, device, min(2, size), captured=False))
    )
    row["equal_to_eager"] = captured[1] == eager[1] and all(
        torch.equal(a, b) for a, b in zip(captured[0], eager[0], strict=True)
    )
    return row


def _cohort(recipe: Recipe, pixels: ResidentData, device: str, size: int, captured: bool) -> Cohort:
    models = [build_model("resnet20", classes=10, channels=3, seed=0).to(device) for _ in range(size)]
    return Cohort(models, recipe, _loader(recipe, pixels, device, 0), captured=captured)


def _loader(recipe: Recipe, pixels: ResidentData, device: str, seed: int) -> ResidentTrainLoader:
    normal = pixels.manifest.normalization
    transform = PadCrop(4, True, normal.mean, normal.std, normal.scale)
    return ResidentTrainLoader(pixels, recipe.batch_size, seed, 2**63 + seed, transform, device)


def _trained(
    recipe: Recipe, pixels: ResidentData, device: str, count: int, cohort: Cohort
) -> tuple[list[torch.Tensor], list[object]]:
    """Trains `count` networks; returns their weights and their measurements."""
    members = [
        Member(
            recipe,
            _loader(recipe, pixels, device, seed),
            build_model("resnet20", classes=10, channels=3, seed=seed).state_dict(),
        )
        for seed in range(count)
    ]
    tensors: list[torch.Tensor] = []
    results: list[object] = []
    for _, model, result in sorted(
        ((k, [t.clone() for t in model.state_dict().values()], result) for k, model, result in cohort.train(members)),
        key=lambda found: found[0],
    ):
        tensors += model
        results.append(str(result))
    return tensors, results


def _nodes(recipe: Recipe, pixels: ResidentData, device: str, size: int) -> dict[str, Any]:
    """What one replay runs on the GPU: kernels, copies and fills."""
    from torch.profiler import ProfilerActivity, profile

    cohort = _cohort(recipe, pixels, device, size, captured=True)
    cohort.images_per_second()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        cohort._run(cohort._branches)
        torch.cuda.synchronize()
    return {"nodes": sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events() or ())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    # As a worker of a run, before CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    for count in (measure, count_nodes):
        for row in itertools.chain.from_iterable(
            count(options.device, tuple(options.sizes), precision, options.batch_size) for precision in precisions
        ):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if options.out:  # after every row, so that a cut leaves what was measured
                record = machine(options.device) | {"command": " ".join(["python", *sys.argv]), "rows": rows}
                options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
