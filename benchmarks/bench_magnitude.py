"""magnitude_threshold and its mask against sorting and torch.kthvalue, interleaved, on whatever device is there.

    python -m pytest benchmarks/bench_magnitude.py --benchmark-enable -s

Most competitors only find the threshold, in one flat tensor of live magnitudes that was made for them beforehand; ours
take the layers as they are, and so does `select, numpy.sort`, which works as open_lth does. Times are medians with 20th
and 80th percentiles, in milliseconds; `floor` is the time of one sum over all weights, which reads them once.
SPARSELT_BENCH_WEIGHTS scales the large network.
"""

import os
from time import perf_counter

import numpy as np
import pytest
import torch
from sparselt.kernels import magnitude_mask, magnitude_threshold

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = int(float(os.environ.get("SPARSELT_BENCH_WEIGHTS", 25.6e6)))
NETWORKS = {
    "ResNet-20": ([(16 * 2**i, 16 * 2**i, 3, 3) for i in range(3) for _ in range(6)] + [(10, 64)], 40),
    "large": ([(LARGE // 16,)] * 16, 7),
}
FRACTION = 0.2


def timed(call, seconds: list[float]) -> None:
    start = perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds.append(perf_counter() - start)


def percentiles(seconds: list[float]) -> list[float]:
    kept = torch.tensor(seconds[1:], dtype=torch.float64) * 1e3
    return torch.quantile(kept, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()


def selected(weights: list[torch.Tensor], masks: list[torch.Tensor] | None) -> list[np.ndarray]:
    arrays = [weight.flatten().numpy() for weight in weights]
    return arrays if masks is None else [a[m.flatten().numpy()] for a, m in zip(arrays, masks, strict=True)]


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("name", NETWORKS)
def test_magnitude(name, density, benchmark):
    shapes, rounds = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=generator).to(DEVICE) * 0.02 * (1 + i % 4) for i, s in enumerate(shapes)]
    masks = None
    if density < 1:
        masks = [(torch.rand(s, generator=generator) < density).to(DEVICE) for s in shapes]
        weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    flat = torch.cat([weight.abs().flatten() for weight in weights])
    flat = flat if masks is None else flat[torch.cat([mask.flatten() for mask in masks])]
    count, total = int(FRACTION * flat.numel()), torch.cat([weight.flatten() for weight in weights])

    calls = {
        "magnitude_mask": lambda: magnitude_mask(weights, masks, count),
        "torch.kthvalue": lambda: flat.kthvalue(count),
        "torch.sort": lambda: torch.sort(flat),
        "one sum": total.sum,
    }
    if DEVICE == "cpu":
        del calls["torch.sort"]
        calls["numpy.sort"] = lambda: np.sort(flat.numpy())
        calls["select, numpy.sort"] = lambda: np.sort(np.abs(np.concatenate(selected(weights, masks))))
    seconds: dict[str, list[float]] = {label: [] for label in ("magnitude_threshold", *calls)}

    def everyone_else() -> None:
        for label, call in calls.items():
            timed(call, seconds[label])

    def ours() -> None:
        timed(lambda: magnitude_threshold(weights, masks, count), seconds["magnitude_threshold"])

    benchmark.pedantic(ours, setup=everyone_else, rounds=rounds)
    median = percentiles(seconds["magnitude_threshold"])[1]
    floor = percentiles(seconds.pop("one sum"))[1]
    live = f"{flat.numel():,} of {total.numel():,} weights live"
    print(f"\n{name}: {live}, {DEVICE}, {torch.get_num_threads()} threads")
    for label, times in seconds.items():
        low, middle, high = percentiles(times)
        print(f"  {label:20s} {middle:10.3f} ({low:.3f} to {high:.3f})   {middle / median:.2f} x magnitude_threshold")
        benchmark.extra_info[label] = {"median_ms": middle, "ratio": middle / median}
    print(f"  {'floor':20s} {floor:10.3f}")
