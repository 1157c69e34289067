"""`sparselt doctor`: what is installed on this machine and what it can do."""

import importlib.util
import os

from sparselt.runs.store import versions


def doctor() -> None:
    """Prints versions, cores, CUDA devices and what is missing."""
    found = versions()
    for name, version in found.items():
        print(f"{name:12} {version}")
    print(f"{'cores':12} {len(os.sched_getaffinity(0))} usable")
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"{'cuda':12} {torch.cuda.get_device_name(index)}")
    else:
        print(f"{'cuda':12} no device; everything runs on the CPU, the Triton kernels only in their interpreter")
    if importlib.util.find_spec("ffcv") is None:
        print(f"{'ffcv':12} missing: betons are read by Pillow, the same but slower; pip install 'sparselt[ffcv]'")
