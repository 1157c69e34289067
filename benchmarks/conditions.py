"""The conditions that all suites of a run share: device, time and sizes."""

import os
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run.

    device: "cpu" or "cuda". quick: fewer cases and rounds. scale: multiplies the size of large cases; below 1 only in
    tests. seconds: about how long the rounds of one comparison may take.
    """

    device: str
    quick: bool
    scale: float
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def clocks(self, small: bool) -> list[str]:
        """The useful clocks (see `clocks`). Small work on a GPU is bound by launches, so it is timed in two ways."""
        if not self.on_gpu:
            return ["host"]
        return ["host", "graph"] if small else ["events"]

    def scaled(self, size: float) -> int:
        return max(1, round(size * self.scale))


@lru_cache(maxsize=1)
def conditions() -> Conditions:
    """Read from SPARSELT_BENCH_DEVICE, _QUICK, _SCALE and _SECONDS; by default the GPU if there is one."""
    device = os.environ.get("SPARSELT_BENCH_DEVICE", "")
    if not device:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    quick = os.environ.get("SPARSELT_BENCH_QUICK", "0") == "1"
    seconds = 0.4 if quick else 1.0 if device != "cpu" else 1.5
    return Conditions(
        device=device,
        quick=quick,
        scale=float(os.environ.get("SPARSELT_BENCH_SCALE", 1)),
        seconds=float(os.environ.get("SPARSELT_BENCH_SECONDS", seconds)),
    )
