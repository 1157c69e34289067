"""Helpers of the suites that measure on one CPU thread: interleaved timing, and the least time a call can take."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import median
from time import thread_time

import torch
from torch import Tensor

from sparselt.training.cpu import keep_memory

DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.07, 0.05)


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; without that, torch's bfloat16 is many times slower than float32."""
    return any(getattr(torch.cpu, f"_is_{kind}_supported", bool)() for kind in ("avx512_bf16", "amx_tile"))


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call on one thread, in rounds: in each, once to warm the caches, then for about 20 ms.

    CPU time, because a busy machine then adds cache misses to a call, but not the time of others. From here on the
    process keeps the memory that it frees, as a run's workers do: new memory can cost more than a call.
    """
    keep_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        repeats = {}
        for name, call in calls.items():
            call()
            repeats[name] = max(1, int(20e-3 / max(_seconds(call, 1), 1e-6)))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                if repeats[name] > 1:
                    call()
                seconds[name].append(_seconds(call, repeats[name]))
        return seconds
    finally:
        torch.set_num_threads(threads)


@lru_cache
def peak() -> tuple[float, float]:
    """Operations a second of torch's float32 matrix product of 512 rows, bytes a second of a copy of 64 MB; one thread.

    A copy of n bytes reads them and writes them: 2n.
    """
    a, b = torch.randn(2, 512, 512)
    data = torch.ones(2**24)
    other = data.clone()
    found = interleaved({"product": lambda: a @ b, "copy": lambda: other.copy_(data)}, 9)
    return 2 * 512**3 / min(found["product"]), 2 * 4 * 2**24 / median(found["copy"])


def floor_note(operations: float, moved: float) -> str:
    """What the arithmetic and the memory alone would take, for the note of a record."""
    rate, bandwidth = peak()
    return (
        f"floor: {operations / 1e9:.3g} GFLOP at {rate / 1e9:.0f} GFLOP/s, {1e3 * operations / rate:.3g} ms; "
        f"{moved / 1e6:.3g} MB at {bandwidth / 1e9:.1f} GB/s, {1e3 * moved / bandwidth:.3g} ms"
    )


def random_mask(model: torch.nn.Module, density: float) -> dict[str, Tensor]:
    """A random mask over all weights of convolutions and linear layers; the masked ones are set to 0."""
    generator = torch.Generator().manual_seed(0)
    live = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                live[name] = torch.rand(parameter.shape, generator=generator) < density
                parameter.mul_(live[name])
    return live


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = thread_time()
    for _ in range(repeats):
        call()
    return (thread_time() - start) / repeats
