"""`sparselt doctor`: versions and abilities of this machine."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass

from sparselt.runs.devices import cpu_has_bfloat16
from sparselt.runs.store import versions


@dataclass(frozen=True)
class Doctor:
    """Print versions, cores, CUDA devices, and what is missing."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        _print()
        return 0


def _print() -> None:
    found = versions()
    for name, version in found.items():
        print(f"{name:12} {version}")
    print(f"{'cores':12} {len(os.sched_getaffinity(0))} usable")
    bfloat16 = {True: "yes", False: "no: --set precision=float32 is faster on this CPU", None: "unknown"}
    print(f"{'bfloat16':12} {bfloat16[cpu_has_bfloat16()]}")
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"{'cuda':12} {torch.cuda.get_device_name(index)}")
    else:
        print(f"{'cuda':12} no device; everything runs on the CPU, the Triton kernels only in their interpreter")
    if importlib.util.find_spec("ffcv") is None:
        print(f"{'ffcv':12} missing: betons are read by Pillow, the same but slower; pip install 'sparselt[ffcv]'")
