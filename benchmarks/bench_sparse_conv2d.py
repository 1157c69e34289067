"""sparse_conv2d against torch's dense convolutions (oneDNN), forward and both gradients; 3×3, one thread, CPU time.

`dense` is the faster of channels last and contiguous, which are both measured. Its gradients are
`aten.convolution_backward` with one output. Ours are the jobs that a network runs in every step: lists, memory and
layout are there. Bytes: the images read, and the images or the weights written.
"""

from functools import lru_cache
from statistics import median

import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case
from sparselt.benchmarks.sparse import floor_note, has_fast_bfloat16, interleaved
from sparselt.kernels.sparse_conv2d import cpu, pattern_of
from sparselt.kernels.sparse_conv2d.lists import backward_side, forward_side
from sparselt.kernels.tiles import enter

HERE = conditions()
pytestmark = pytest.mark.skipif(HERE.on_gpu, reason="sparse_conv2d runs on a CPU only")
SHAPES = {  # channels, side, batch
    "8 channels, 8 px, batch 64": (8, 8, 64),
    "32 channels, 2 px, batch 64": (32, 2, 64),
    "16 channels, 32 px, batch 128": (16, 32, 128),
    "64 channels, 8 px, batch 128": (64, 8, 128),
}
DENSITIES = (1.0, 0.1) if HERE.quick else (1.0, 0.3, 0.1, 0.05)
PASSES = ("forward", "gradient of the input", "gradient of the weights")


def dense(images, weight, which: str):
    if which == "forward":
        return lambda: torch.nn.functional.conv2d(images, weight, padding=1)
    wanted = [which == PASSES[1], which == PASSES[2], False]
    options = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted)
    return lambda: torch.ops.aten.convolution_backward(images, images, weight, None, *options)


def sparse(images, weight, live, which: str, dtype: torch.dtype):
    tiles, pattern = enter(images.to(dtype)), pattern_of(live)
    image = tiles.shape[1:4]
    if which == PASSES[2]:
        side = forward_side(pattern, image, 1, tiles.itemsize)
        return cpu.dots(side, tiles, tiles.clone(), torch.zeros_like(weight)).run
    side = (forward_side if which == PASSES[0] else backward_side)(pattern, image, 1, tiles.itemsize)
    return cpu.gather(side, tiles, weight.view(-1).numpy()[side.places], torch.empty_like(tiles)).run


@lru_cache
def measured(shape: str, which: str) -> tuple[dict[str, list[float]], dict[float, int]]:
    """Seconds of all competitors, interleaved, and the number of live weights at each density."""
    channels, side, batch = *SHAPES[shape][:2], HERE.scaled(SHAPES[shape][2])
    images, weight = torch.randn(batch, channels, side, side), torch.randn(channels, channels, 3, 3)
    calls, counts = {}, {}
    for memory in (torch.channels_last, torch.contiguous_format):
        given = images.contiguous(memory_format=memory), weight.contiguous(memory_format=memory)
        calls[f"dense {memory}"] = dense(*given, which)
        if has_fast_bfloat16():
            calls[f"dense bfloat16 {memory}"] = dense(given[0].bfloat16(), given[1].bfloat16(), which)
    for density in DENSITIES:
        live = torch.rand(weight.shape) < density
        counts[density] = int(live.sum())
        for dtype in (torch.float32, torch.bfloat16):
            calls[f"{density} {dtype}"] = sparse(images, weight, live, which, dtype)
    return interleaved(calls, 5 if HERE.quick else 11), counts


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_convolution(shape, which, density, compare):
    (channels, side, batch), (seconds, counts) = SHAPES[shape], measured(shape, which)
    batch = HERE.scaled(batch)

    def best(kind: str) -> list[float]:
        return min((times for name, times in seconds.items() if name.startswith(kind)), key=median)

    times = {"sparse_conv2d": seconds[f"{density} torch.float32"], "dense": best("dense torch")}
    times["sparse_conv2d, bfloat16"] = seconds[f"{density} torch.bfloat16"]
    if has_fast_bfloat16():
        times["dense, bfloat16"] = best("dense bfloat16")
    operations = 2 * counts[density] * batch * side * side
    moved = 4 * channels * batch * side * side * (1 if which == PASSES[2] else 2)
    case = Case("sparse_conv2d", f"{shape}: {which}", size=batch, density=density, unit="images", sweep="density")
    compare.times(case, times, notes={"sparse_conv2d": floor_note(operations, moved)})
