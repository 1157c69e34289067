"""interpolate against loops of torch.lerp with a mask multiplied in, interleaved, on whatever device is there.

    python -m pytest benchmarks/bench_interpolate.py --benchmark-enable -s

Everyone writes all K weight sets into memory that exists already. Before each timed call of ours every competitor
makes one. Times are medians with 20th and 80th percentiles, in milliseconds; `floor` is the time that reading the ends
and the mask once and writing K weight sets take at the bandwidth of filling that memory, measured in the same rounds.
SPARSELT_BENCH_WEIGHTS scales the large network.
"""

import os
from time import perf_counter

import pytest
import torch
from sparselt.kernels import interpolate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = int(float(os.environ.get("SPARSELT_BENCH_WEIGHTS", 25.6e6)))
NETWORKS = {
    "ResNet-20": ([(16 * 2**i, 16 * 2**i, 3, 3) for i in range(3) for _ in range(6)] + [(10, 64)], 40),
    "large": ([(LARGE // 16,)] * 16, 6),
}
DENSITY = 0.2


def timed(call, seconds: list[float]) -> None:
    start = perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds.append(perf_counter() - start)


def percentiles(seconds: list[float]) -> list[float]:
    kept = torch.tensor(seconds[1:], dtype=torch.float64) * 1e3
    return torch.quantile(kept, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()


@pytest.mark.parametrize("points", [9, 30])
@pytest.mark.parametrize("name", NETWORKS)
def test_interpolate(name, points, benchmark):
    shapes, rounds = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    ends = [[torch.randn(s, generator=generator).to(DEVICE) for s in shapes] for _ in range(2)]
    masks = [(torch.rand(s, generator=generator) < DENSITY).to(DEVICE) for s in shapes]
    factors = [mask.float() for mask in masks]
    positions = torch.linspace(0, 1, points, device=DEVICE)
    numbers, out = positions.tolist(), [torch.zeros(points, *s, device=DEVICE) for s in shapes]

    def ours() -> None:
        interpolate(ends, positions, masks=masks, out=out)

    def loop() -> None:
        for k, number in enumerate(numbers):
            for rows, a, b, factor in zip(out, *ends, factors, strict=True):
                torch.lerp(a, b, number, out=rows[k]).mul_(factor)

    def foreach() -> None:
        for k, number in enumerate(numbers):
            rows = [r[k] for r in out]
            torch._foreach_copy_(rows, ends[0])
            torch._foreach_lerp_(rows, ends[1], number)
            torch._foreach_mul_(rows, factors)

    def fill() -> None:
        torch._foreach_zero_(out)

    seconds: dict[str, list[float]] = {"interpolate": [], "lerp and mask": [], "foreach lerp and mask": [], "fill": []}

    def everyone_else() -> None:
        timed(loop, seconds["lerp and mask"])
        timed(foreach, seconds["foreach lerp and mask"])
        timed(fill, seconds["fill"])

    benchmark.pedantic(lambda: timed(ours, seconds["interpolate"]), setup=everyone_else, rounds=rounds)
    weights = sum(mask.numel() for mask in masks)
    median = percentiles(seconds["interpolate"])[1]
    floor = percentiles(seconds.pop("fill"))[1] * (9 + 4 * points) / (4 * points)
    print(f"\n{name}, K = {points}: {weights:,} weights, {DEVICE}, {torch.get_num_threads()} threads")
    for label, times in seconds.items():
        low, middle, high = percentiles(times)
        print(f"  {label:24s} {middle:10.2f} ({low:.2f} to {high:.2f})   {middle / median:.2f} x interpolate")
        benchmark.extra_info[label] = {"median_ms": middle, "ratio": middle / median}
    print(f"  {'floor':24s} {floor:10.2f}")
